"""The files that `gpt fetch` brought: of which format each is, and in which pieces it is read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt.corpus.reading.delimited import read_csv, read_tsv
from gpt.corpus.reading.fields import Record
from gpt.corpus.reading.objects import read_array, read_jsonl
from gpt.corpus.reading.pages import read_html
from gpt.corpus.reading.streams import COMPRESSIONS, Fault, Span
from gpt.corpus.reading.tables import read_arrow, read_parquet
from gpt.corpus.reading.texts import read_code, read_text
from gpt.corpus.reading.warc import read_warc
from gpt.errors import UserError
from gpt.files import read_json, sha256_json
from gpt.params.corpus import Prepare, Read

Reader = Callable[..., Iterator[Record | Fault]]

CODE = "code"
_CODE_ENDINGS = (
    ".adb .ads .asm .awk .bash .bat .c .cc .cfg .cjs .clj .cljs .cmake .cpp .cs .css .cu .cuh .cxx .d .dart .el .elm .erl .ex .exs"
    " .f .f03 .f08 .f90 .f95 .fish .fs .fsx .go .gradle .graphql .groovy .h .hh .hpp .hrl .hs .hxx .ini .java .jl .js .jsx .kt .kts"
    " .lean .less .lisp .lua .m .mak .mjs .mk .ml .mli .mm .nim .nix .pas .php .pl .pm .proto .ps1 .py .pyi .pyx .r .rake .rb .rkt"
    " .rs .s .sass .scala .scm .scss .sh .sol .sql .sv .svelte .swift .tcl .tf .toml .ts .tsx .v .vb .vhd .vhdl .vim .vue .yaml"
    " .yml .zig .zsh"
)
# A format's reader, what it calls a record, and the endings of its files' names.
FORMATS: dict[str, tuple[Reader, str, tuple[str, ...]]] = {
    "text": (read_text, "document", (".txt", ".md", ".text", ".rst", ".tex")),
    "jsonl": (read_jsonl, "line", (".jsonl", ".ndjson")),
    "json": (read_array, "record", (".json",)),
    "csv": (read_csv, "line", (".csv",)),
    "tsv": (read_tsv, "line", (".tsv", ".tab")),
    "parquet": (read_parquet, "row", (".parquet",)),
    "arrow": (read_arrow, "row", (".arrow", ".feather", ".ipc")),
    "html": (read_html, "page", (".html", ".htm", ".xhtml")),
    "warc": (read_warc, "record", (".warc", ".wet")),
    CODE: (read_code, "document", tuple(_CODE_ENDINGS.split())),
}
# `json` is: an object a line, unless the file turns out to be an array, which the first piece reads.
_DIVISIBLE = ("jsonl", "json", "parquet")
_COMPRESSED_INSIDE = {
    "parquet": "Parquet is read from its end and compressed inside",
    "arrow": "Arrow is compressed inside",
}
_PIECE_BYTES = 64 << 20
_BY_ENDING = {ending: kind for kind, (_, _, endings) in FORMATS.items() for ending in endings}


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
    kind = _BY_ENDING.get(ending) if settings.format == "auto" else settings.format
    if kind is None:
        known = ", ".join(ending for ending, kind in _BY_ENDING.items() if kind != CODE)
        raise UserError(
            f"{path}: files of type {ending!r} cannot be read; known are {known} and those of source code, also with"
            f" {' or '.join(COMPRESSIONS)} after them; take it out of the source, or set prepare.read.format"
        )
    if compressed and kind in _COMPRESSED_INSIDE:
        raise UserError(f"{path}: {_COMPRESSED_INSIDE[kind]}; decompress the file")
    return kind
