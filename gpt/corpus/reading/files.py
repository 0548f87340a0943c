"""The files that `gpt fetch` brought: of which format each is, and in which pieces it is read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt.corpus.reading.delimited import read_csv, read_tsv
from gpt.corpus.reading.fields import Record
from gpt.corpus.reading.objects import read_array, read_jsonl
from gpt.corpus.reading.pages import read_html
from gpt.corpus.reading.streams import Fault, Span
from gpt.corpus.reading.tables import read_arrow, read_parquet
from gpt.corpus.reading.texts import read_code, read_text
from gpt.corpus.reading.warc import read_warc
from gpt.errors import UserError
from gpt.files import read_json, sha256_json
from gpt.params.corpus import Prepare, Read
from gpt.sources.kinds import CODE, COMPRESSED_INSIDE, COMPRESSIONS, FORMAT_OF

Reader = Callable[..., Iterator[Record | Fault]]

# A format's reader, and what it calls a record.
FORMATS: dict[str, tuple[Reader, str]] = {
    "text": (read_text, "document"),
    "jsonl": (read_jsonl, "line"),
    "json": (read_array, "record"),
    "csv": (read_csv, "line"),
    "tsv": (read_tsv, "line"),
    "parquet": (read_parquet, "row"),
    "arrow": (read_arrow, "row"),
    "html": (read_html, "page"),
    "warc": (read_warc, "record"),
    CODE: (read_code, "document"),
}
# `json` is: an object a line, unless the file turns out to be an array, which the first piece reads.
_DIVISIBLE = ("jsonl", "json", "parquet")
_PIECE_BYTES = 64 << 20


class Piece(NamedTuple):
    """A file of a source, or those of its records that begin in a span of its bytes."""

    source: str
    name: str
    format: str
    span: Span | None = None


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
    kind = FORMAT_OF.get(ending) if settings.format == "auto" else settings.format
    if kind is None:
        known = ", ".join(ending for ending, kind in FORMAT_OF.items() if kind != CODE)
        raise UserError(
            f"{path}: files of type {ending!r} cannot be read; known are {known} and those of source code, also with"
            f" {' or '.join(COMPRESSIONS)} after them; take it out of the source, or set prepare.read.format"
        )
    if compressed and kind in COMPRESSED_INSIDE:
        raise UserError(f"{path}: {COMPRESSED_INSIDE[kind]}; decompress the file")
    return kind
