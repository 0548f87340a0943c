"""What a text is, before a project is made of it: files, documents, bytes, characters, and some of its beginnings.

It is read by the very readers of `gpt prepare`, so that what those would refuse is told here. Of a large text a random part is
read, always the same one, and the rest is estimated. Nothing here knows a language.
"""

import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.reading.files import Piece, list_pieces
from gpt.corpus.reading.readers import ReadSources
from gpt.corpus.reading.streams import Fault, open_stream
from gpt.errors import UserError
from gpt.files import write_json
from gpt.params.corpus import Prepare
from gpt.projects.fields import find_text
from gpt.sources.kinds import COMPRESSIONS
from gpt.sources.local import find_files

ENOUGH_BYTES = 64 << 20  # of text are read; beyond that figures are estimates
_MOST_BYTES = 4 * ENOUGH_BYTES  # of one file
_LARGEST_DOCUMENT = 256 << 20  # a text file is one document up to here: prepare holds it in memory
_EXPANSION = 3  # how much text a compressed file holds, about
_PEEKED_BYTES = 1 << 20
_NAME = "data"  # of the source that the readers are given
_KEPT_DOCUMENTS, _KEPT_CHARACTERS = 500, 200_000
_TABLE_BYTES = 16 << 20
# What prepare advises cannot be done yet, for want of a params.yaml: what can be, in its place.
_ADVICE = {
    "take it out of the source, or set prepare.read.format": "convert it to text, or take it out",
    "set prepare.read.text_field, or that of the source in prepare.by_source": "give each record a text there",
    ", or leave such out with prepare.malformed: skip": "",
}
END_OF_TEXT = "<|endoftext|>"
"What many a data set puts between its documents, as TinyStories does."


@dataclass
class Survey:
    """Of a file or folder; counts are estimates if `is_estimate`."""

    name: str
    "What it is called in messages: the path, or the address, as it was typed."
    files: int
    file_bytes: int
    read: dict[str, Any]
    "What prepare.read has to say, besides the template."
    documents: int = 0
    text_bytes: int = 0
    "UTF-8 bytes of the text."
    characters: int = 0
    longest_bytes: int = 0
    "Of the longest document that was read."
    is_estimate: bool = False
    sample: list[str] = field(default_factory=list)
    "Documents, each from its beginning, in a random order that is always the same."
    table_bits_per_byte: float = 8.0
    "What a table of which byte follows which would predict the sample with: the least that a model must learn."

    def scale(self, times: float) -> None:
        """Let the counts, which are of a part, be estimates of the whole, in two or three digits."""
        self.is_estimate = True
        self.documents, self.text_bytes, self.characters = (
            int(float(f"{times * count:.2e}")) for count in (self.documents, self.text_bytes, self.characters)
        )


def survey(path: Path, settings: Prepare) -> Survey:
    """Look at the text in a file or folder; `settings` say how it would be read if its files did not tell otherwise.

    Raises `UserError` if there is none, or it cannot be read as text.
    """
    files = list_texts(path)
    found = Survey(str(path), len(files), sum(file.stat().st_size for file in files), read={})
    if not found.file_bytes:
        raise UserError(f"--data {path}: is empty; name a file or folder with text")
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary)
        below = _lay_out(path, files, raw)
        try:
            found.read = _how_to_read(files, settings, raw)
            _count(found, ReadSources(_as_needed(settings, found.read), raw))
        except UserError as error:
            told = str(error).replace(str(raw / _NAME), str(below))
            for setting, now in _ADVICE.items():
                told = told.replace(setting, now)
            raise UserError(f"--data {told}") from None
    if not found.text_bytes:
        raise UserError(f"--data {path}: its {found.files:,} file(s) hold no text; name a file or folder with text")
    return found


def list_texts(path: Path) -> list[Path]:
    """Return the file, or the files below the folder that are fetched; raise `UserError` if there are none."""
    if path.is_file():
        return [path]
    found = find_files(path)
    if found is None or not found.folder.samefile(path if path.is_dir() else path.parent):
        raise UserError(f"--data {path}: not found; name a file, a folder, or hf://OWNER/NAME")
    files = [found.folder / name for name in found.names]
    if gone := [file for file in files if not file.exists()]:
        raise UserError(f"--data {gone[0]}: is a link that leads nowhere; take it out of the folder")
    if not files:
        raise UserError(f"--data {path}: is a folder without files (hidden ones do not count); put text into it")
    return files


def _lay_out(path: Path, files: list[Path], folder: Path) -> Path:
    """Give the files to the readers as `gpt fetch` would, by a link in `folder`; return the folder that they are in."""
    below = path if path.is_dir() else path.parent
    (folder / _NAME).symlink_to(below.absolute(), target_is_directory=True)
    listed = {file.relative_to(below).as_posix(): {"bytes": file.stat().st_size} for file in files}
    write_json(folder / "sources.json", [{"name": _NAME, "files": listed}])
    return below


def _how_to_read(files: list[Path], settings: Prepare, raw: Path) -> dict[str, Any]:
    """Return what prepare has to say of these files besides the template, by the keys below it."""
    largest = max(files, key=lambda file: file.stat().st_size)
    try:
        kinds = {piece.format for piece in list_pieces(raw, settings)}
    except UserError:
        if len(files) > 1 or _is_binary(_peek(largest)):
            raise
        return {"read.format": "text"} | _as_text(largest, settings)  # a text by another name
    needs: dict[str, Any] = {}
    if "text" in kinds:
        needs = _as_text(largest, settings)
    for kind in kinds & {"jsonl", "json", "csv", "tsv", "parquet", "arrow"}:
        piece = next(piece for piece in list_pieces(raw, settings) if piece.format == kind)
        needs |= {f"read.{key}": value for key, value in find_text(raw / piece.source / piece.name, kind).items()}
    return needs


def _as_text(largest: Path, settings: Prepare) -> dict[str, Any]:
    """Return where documents end in text files, and how long one may be."""
    if END_OF_TEXT.encode() in _peek(largest):
        return {"read.separator": END_OF_TEXT}
    size = largest.stat().st_size
    if size > _LARGEST_DOCUMENT:
        return {"read.separator": "\n\n"}
    return {"max_document_bytes": -(-size // 10**7) * 10**7} if size > settings.max_document_bytes else {}


def _peek(file: Path) -> bytes:
    try:
        with open_stream(file) as stream:
            return stream.read(_PEEKED_BYTES)
    except Fault:
        return b""  # reading it says what is wrong


def _is_binary(data: bytes) -> bool:
    return b"\0" in data or len(data.decode(errors="ignore").encode()) < 0.9 * len(data)


def _as_needed(settings: Prepare, needs: dict[str, Any]) -> Prepare:
    values = settings.model_dump(mode="json") | {"by_source": {}}
    for key, value in needs.items():
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    return Prepare.model_validate(values)


def _count(found: Survey, reader: ReadSources) -> None:
    pieces = list_pieces(reader.raw, reader.settings)
    order = list(range(len(pieces)))
    random.Random(0).shuffle(order)
    draw, kept, table = random.Random(0), list[str](), np.zeros(1 << 16, np.int64)
    seen_files, documents = 0.0, 0
    for number in order:
        if found.text_bytes >= ENOUGH_BYTES:
            break
        in_piece = 0
        for text in _texts(reader, number, len(pieces)):
            data = text.encode()
            documents += 1
            in_piece += len(data)
            found.characters += len(text)
            found.longest_bytes = max(found.longest_bytes, len(data))
            if table.sum() < _TABLE_BYTES:
                table += _pairs(data[:_TABLE_BYTES])
            place = len(kept) if len(kept) < _KEPT_DOCUMENTS else draw.randrange(documents)
            if place < _KEPT_DOCUMENTS:  # each document is as likely to stay as any other
                kept[place : place + 1] = [text[:_KEPT_CHARACTERS]]
            if in_piece >= _MOST_BYTES:
                break
        found.text_bytes += in_piece
        seen_files += _share(reader, pieces[number], in_piece)
    draw.shuffle(kept)
    found.sample, found.documents = kept, documents
    found.table_bits_per_byte = _conditional_entropy(table)
    whole = found.file_bytes / seen_files if seen_files else 1.0
    if whole > 1.01:
        found.scale(whole)


def _texts(reader: ReadSources, number: int, count: int) -> Iterator[str]:
    """Yield the texts of one of `count` pieces."""
    for document in reader.run(rank=number, world_size=count):
        yield document.text


def _share(reader: ReadSources, piece: Piece, text_bytes: int) -> float:
    """Return how many bytes of its file a piece stands for: all of them, unless reading ended within it."""
    path = reader.raw / piece.source / piece.name
    size = path.stat().st_size
    if piece.span:
        size = min(piece.span[1], size) - piece.span[0]
    if text_bytes < _MOST_BYTES:
        return size
    return min(size, text_bytes / (_EXPANSION if path.suffix.lower() in COMPRESSIONS else 1))


def _pairs(data: bytes) -> np.ndarray:
    """Count which byte follows which: (65536,)."""
    codes = np.frombuffer(data, np.uint8).astype(np.int64)
    return np.bincount((codes[:-1] << 8) | codes[1:], minlength=1 << 16)


def _conditional_entropy(table: np.ndarray) -> float:
    """Return the bits of a byte when the one before it is known."""
    counts = table.reshape(256, 256).astype(float)
    before = counts.sum(axis=1, keepdims=True)
    total = counts.sum()
    if not total:
        return 8.0
    likely = np.divide(counts, before, out=np.ones_like(counts), where=counts > 0)
    return float(-(counts * np.log2(likely)).sum() / total)


_WORDS, _FEWEST, _MOST = 4, 8, 32  # of a prompt: words, characters


def choose_prompts(texts: list[str], count: int) -> list[str]:
    """Return the beginnings of some documents, or of some lines where there are few: each of a few words, or of some characters
    where words are not told apart by spaces."""
    draw = random.Random(0)
    begins = [text for text in texts if text.strip()]
    if len(begins) < 4 * count:  # of a long text its lines
        begins = [line for text in begins for line in text.splitlines() if len(line.strip()) >= _FEWEST] or begins
    draw.shuffle(begins)
    prompts: dict[str, None] = {}
    for text in begins:
        prompt = _begin(" ".join(text[: 8 * _MOST].split()))
        if len(prompt) >= 2:
            prompts[prompt] = None
        if len(prompts) == count:
            break
    return list(prompts)


def _begin(text: str) -> str:
    words = " ".join(text.split(" ")[:_WORDS])
    if len(words) <= _MOST:
        return words
    cut = text[:_MOST]
    return cut.rpartition(" ")[0] or re.sub(r"\W+$", "", cut[:12]) or cut[:12]
