"""Files of examples row by row, each with the place where it stands: JSONL, JSON, CSV, TSV and Parquet, also gzipped."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from gpt.errors import UserError

Row = dict[str, Any]
_MOST_CELL = 2**31 - 1  # of csv: a long text is no error


def read_rows(folder: Path) -> Iterator[tuple[str, Row]]:
    """Yield every row of the files below a folder with its place, as `chats/a.jsonl, line 3`, files in the order of their names.

    Raises `UserError` for a file of another kind, or a row that is no object.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        kind = name.removesuffix(".gz").rpartition(".")[2].lower()
        reader = _READERS.get(kind)
        if reader is None:
            known = ", ".join(_READERS)
            raise UserError(
                f"{name}: not a kind of file that holds examples ({known}); let members or patterns leave it out"
            )
        with path.open("rb") as raw, gzip.open(raw) if name.endswith(".gz") else raw as file:
            try:
                for number, row in _named(name, reader(cast(BinaryIO, file))):
                    if not isinstance(row, dict):
                        raise UserError(
                            f"{name}, {number}: is {type(row).__name__}; it must be an object with named fields"
                        )
                    yield f"{name}, {number}", row
            except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
                raise UserError(f"{name}: damaged, or not UTF-8 ({error})") from None


def _named(name: str, rows: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield rows; put the name of their file before what is wrong with one."""
    try:
        yield from rows
    except UserError as error:
        raise UserError(f"{name}, {error}") from None


def _jsonl(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"line {number}", _json(line, f"line {number}")


def _json_file(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    content = _json(file.read(), "the file")
    if isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        yield from ((f"entry {key}", value) for key, value in content.items())
    elif isinstance(content, list):
        yield from ((f"entry {number}", value) for number, value in enumerate(content, 1))
    else:
        raise UserError("the file: is neither a list of objects nor an object of objects")


def _json(text: bytes, place: str) -> Any:
    try:
        value = json.loads(text)
        if b"\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise UserError(
            f"{place}: holds half a character (\\ud800 to \\udfff without its other half); correct it"
        ) from None
    except RecursionError:
        raise UserError(f"{place}: is nested too deep") from None
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise UserError(f"{place}: no JSON ({error})") from None


def _delimited(delimiter: str) -> Callable[[BinaryIO], Iterator[tuple[str, Any]]]:
    def read(file: BinaryIO) -> Iterator[tuple[str, Any]]:
        csv.field_size_limit(_MOST_CELL)
        reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), delimiter=delimiter)
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"line {reader.line_num}: has another number of cells than the first line names")
            yield f"line {reader.line_num}", row

    return read


def _parquet(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(pa.BufferReader(file.read())).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except pa.ArrowException as error:
        raise UserError(f"the file: no Parquet ({str(error).splitlines()[0]})") from None


_READERS: dict[str, Callable[[BinaryIO], Iterator[tuple[str, Any]]]] = {
    "jsonl": _jsonl,
    "ndjson": _jsonl,
    "json": _json_file,
    "csv": _delimited(","),
    "tsv": _delimited("\t"),
    "parquet": _parquet,
}
