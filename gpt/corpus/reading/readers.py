"""The first step of the data pipeline: the raw files of one rank as datatrove documents.

A record that cannot be read ends the run with its place, or is counted with a reason: none is dropped silently.
"""

import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from gpt.corpus.reading.formats import Record, nul_bytes, read_jsonl, read_parquet, read_text
from gpt.corpus.reading.streams import COMPRESSIONS, Fault, Span
from gpt.corpus.reading.warc import read_warc
from gpt.errors import UserError
from gpt.files import read_json, sha256_json
from gpt.params.corpus import Prepare, Read

Reader = Callable[..., Iterator[Record | Fault]]

# A format's reader, what it calls a record, and the endings of its files' names.
_FORMATS: dict[str, tuple[Reader, str, tuple[str, ...]]] = {
    "text": (read_text, "document", (".txt", ".md", ".text")),
    "jsonl": (read_jsonl, "line", (".jsonl", ".ndjson", ".json")),
    "parquet": (read_parquet, "row", (".parquet",)),
    "warc": (read_warc, "record", (".warc", ".wet")),
}
_DIVISIBLE = ("jsonl", "parquet")
_PIECE_BYTES = 64 << 20
_BY_ENDING = {ending: kind for kind, (_, _, endings) in _FORMATS.items() for ending in endings}
_ADVICE = {
    "not_utf8": "convert it to UTF-8",
    "nul_bytes": "take it out of the source",
    "missing_text": "set prepare.read.text_field, or that of the source in prepare.by_source",
    "text_not_a_string": "set prepare.read.text_field, or that of the source in prepare.by_source",
    "too_long": "raise prepare.max_document_bytes if the memory is there",
    "truncated": "bring the whole file",
    "corrupt": "bring an undamaged copy",
    "metadata": "map other fields",
    "bomb": "take it out of the source",
    "no_match": "correct it",
}
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 200


class Piece(NamedTuple):
    """A file of a source, or those of its records that begin in a span of its bytes."""

    source: str
    name: str
    format: str
    span: Span | None = None


class ReadSources(PipelineStep):
    """Yield the documents of a rank's pieces of files: text as it stands, but for what `remove` takes out.

    Counts what it reads by source, and what it leaves out by reason; raises `UserError` for what is wrong with the
    settings or with a file as a whole, and, with `malformed: error`, for a record that cannot be read.
    """

    type = "READER"
    name = "raw files"

    def __init__(self, settings: Prepare, raw: Path) -> None:
        super().__init__()
        self.settings = settings
        self.raw = raw
        self.read = Counter[str]()
        "Documents by source."
        self.read_bytes = Counter[str]()
        "UTF-8 bytes of their text by source."
        self.empty = Counter[str]()
        "Records without text by source: no fault."
        self.rejected = Counter[str]()
        "Records, and rests of files, by reason."
        self.examples: dict[str, list[str]] = {}
        "The first places and messages by reason."

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        if data:
            yield from data
        for piece in list_pieces(self.raw, self.settings)[rank::world_size]:
            yield from self._read_piece(piece)

    def report(self) -> dict[str, Any]:
        """Return the counts as plain JSON."""
        counts = {key: dict(getattr(self, key)) for key in ("read", "read_bytes", "empty", "rejected")}
        return counts | {"examples": {reason: list(examples) for reason, examples in self.examples.items()}}

    def _read_piece(self, piece: Piece) -> Iterator[Document]:
        source, name, kind, span = piece
        settings = self.settings.of(source).read
        path = self.raw / source / name
        reader, unit, _ = _FORMATS[kind]
        place = str(path)
        if span:
            reader = partial(reader, span=span)
            if unit == "line":  # those before are not counted, as they are not read
                place += f": from byte {span[0]:,} on"
        remove = re.compile(settings.remove) if settings.remove else None
        number, mapped, missing = 0, 0, 0
        try:
            _check_file(path)
            for item in reader(path, settings, self.settings.max_document_bytes):
                number = item.number
                if isinstance(item, Fault):
                    missing += item.reason == "missing_text"
                    self._reject(f"{place}: {unit} {number}", item)
                    continue
                mapped += 1
                try:
                    text = self._text(item, remove)
                    metadata = _metadata(source, item, settings)
                except Fault as fault:
                    self._reject(f"{place}: {unit} {number}", fault)
                    continue
                if not text or text.isspace():
                    self.empty[source] += 1
                    continue
                self.read[source] += 1
                self.read_bytes[source] += len(text) if text.isascii() else len(text.encode())
                yield Document(text, f"{source}/{name}/{number}", metadata=metadata)
        except Fault as fault:  # of the rest of the file
            self._reject(f"{place}: after {unit} {number}" if number else place, fault)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_repair(error)}") from None
        if missing and not mapped:
            raise UserError(
                f"{path}: none of its {missing} records has a field {settings.text_field!r}; {_ADVICE['missing_text']}"
            )

    def _text(self, record: Record, remove: re.Pattern[str] | None) -> str:
        text = "" if record.text is None else record.text
        if not isinstance(text, str):
            raise Fault("text_not_a_string", f"its text is of type {type(text).__name__}")
        if "\0" in text:
            raise nul_bytes(text)
        # A Parquet row: others were measured before they were read.
        if len(text) > (limit := self.settings.max_document_bytes) or 4 * len(text) > limit < len(text.encode()):
            raise Fault("too_long", f"longer than prepare.max_document_bytes ({self.settings.max_document_bytes})")
        return remove.sub("", text.replace("\r\n", "\n")) if remove else text

    def _reject(self, place: str, fault: Fault) -> None:
        """Count what cannot be read and keep the first examples, or raise it as `UserError`."""
        if self.settings.malformed == "error":
            advice = _ADVICE.get(fault.reason, "repair it")
            raise UserError(f"{place}: {fault.message}; {advice}, or leave such out with prepare.malformed: skip")
        self.rejected[fault.reason] += 1
        examples = self.examples.setdefault(fault.reason, [])
        if len(examples) < _EXAMPLES:
            place = place.removeprefix(f"{self.raw}/")
            examples.append(f"{place}: {fault.message}"[:_EXAMPLE_CHARACTERS])


def list_pieces(raw: Path, settings: Prepare) -> list[Piece]:
    """Return the files that `fetch` brought, long ones in pieces; raise `UserError` if one is of a type that cannot be read.

    Pieces are as long whatever reads them, so documents do not depend on workers or shards.
    """
    pieces: list[Piece] = []
    for source, name, size in list_files(raw):
        path = raw / source / name
        kind = _choose_format(path, settings.of(source).read)
        if kind in _DIVISIBLE and size > _PIECE_BYTES and path.suffix.lower() not in COMPRESSIONS:
            pieces += [
                Piece(source, name, kind, (start, start + _PIECE_BYTES)) for start in range(0, size, _PIECE_BYTES)
            ]
        else:
            pieces.append(Piece(source, name, kind))
    return pieces


def list_files(raw: Path) -> list[tuple[str, str, int]]:
    """Return (source, file, its bytes) for every file that `fetch` brought, sources in its order, files sorted."""
    path = raw / "sources.json"
    try:
        listing = read_json(path, "run `gpt fetch` first")
        return [
            (source["name"], name, file.get("bytes", 0))
            for source in listing
            for name, file in sorted(source["files"].items())
        ]
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: is not as `gpt fetch` wrote it; run `gpt fetch` again") from None


def hash_sources(raw: Path) -> dict[str, str]:
    """Return by each source's folder the hash of what `fetch` noted of its files: their names, sizes and hashes."""
    files: dict[str, list[Any]] = {}
    for source in read_json(raw / "sources.json", "run `gpt fetch` first"):
        files.setdefault((raw / source["name"]).as_posix(), []).append(source["files"])
    return {folder: sha256_json(listed) for folder, listed in files.items()}


def _choose_format(path: Path, settings: Read) -> str:
    """Return the format of a file; raise `UserError` if its name's ending tells none."""
    compressed = path.suffix.lower() in COMPRESSIONS
    ending = Path(path.stem if compressed else path.name).suffix.lower()
    kind = _BY_ENDING.get(ending) if settings.format == "auto" else settings.format
    if kind is None:
        raise UserError(
            f"{path}: files of type {ending!r} cannot be read; known are {', '.join(_BY_ENDING)}, also with"
            f" {' or '.join(COMPRESSIONS)} after them; take it out of the source, or set prepare.read.format"
        )
    if kind == "parquet" and compressed:
        raise UserError(f"{path}: Parquet is read from its end and compressed inside; decompress the file")
    return kind


def _check_file(path: Path) -> None:
    """Raise `UserError` for a pipe or folder: opening one could wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path}: is no file, though sources.json lists it; run `gpt fetch` again")


def _repair(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "sources.json lists it: run `gpt fetch` again"
    return "allow yourself to read it" if isinstance(error, PermissionError) else "check the disk, or fetch it again"


def _metadata(source: str, record: Record, settings: Read) -> dict[str, Any]:
    values = {field: record.values.get(field) for field in settings.metadata_fields}
    if settings.id_field:
        values["id"] = record.values.get(settings.id_field)
    try:
        orjson.dumps(values)
    except TypeError as error:
        raise Fault("metadata", f"its metadata cannot be kept ({error})") from None
    return {"source": source, "metadata": values}
