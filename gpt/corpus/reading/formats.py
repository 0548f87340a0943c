"""Text, JSONL and Parquet files to records, one at a time and in constant memory.

A reader yields a record or the `Fault` of one, and raises the `Fault` of what ends the file.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt.corpus.reading.streams import Fault, Span, lines, open_stream, pieces
from gpt.errors import UserError
from gpt.params.corpus import Read

_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# How other things than text begin, to say what they are.
_SIGNATURES = {
    b"\xff\xfe": "it looks like UTF-16",
    b"\xfe\xff": "it looks like UTF-16",
    b"\x1f\x8b": "it looks like gzip data, whose name should end in .gz",
    b"\x28\xb5\x2f\xfd": "it looks like zstd data, whose name should end in .zst",
}
# Rows at a time: a batch of long documents is held in memory, and 256 are no faster than 64.
_PARQUET_ROWS = 64
_PARQUET_BUFFER_BYTES = 1 << 20
_LOOKED_AT = 100  # characters, to tell what it is
_ABSENT = object()


class Record(NamedTuple):
    number: int
    "Of the line, row, record or document in its file, from 1."
    text: Any
    "What the text field holds, a string or not."
    values: dict[str, Any]
    "Of the other fields asked for, null if the record has none."


def read_text(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield the documents of a text file: what stands between separators or matches the pattern, else all of it."""
    with open_stream(path) as stream:
        if settings.separator:
            yield from _read_pieces(stream, settings.separator.encode(), limit)
            return
        data = stream.read(limit + 1)
    if not data:
        return
    if len(data) > limit:
        raise Fault("too_long", f"longer than prepare.max_document_bytes ({limit}); set prepare.read.separator")
    text = decode(data)
    if settings.pattern:
        yield from _read_matches(text.replace("\r\n", "\n"), re.compile(settings.pattern))
    else:
        yield Record(1, text, {})


def _read_pieces(stream: io.BufferedReader, separator: bytes, limit: int) -> Iterator[Record | Fault]:
    for number, data in enumerate(pieces(stream, separator, limit), start=1):
        try:
            yield too_long(number, limit) if data is None else Record(number, decode(data), {})
        except Fault as fault:
            fault.number = number
            yield fault


def _read_matches(text: str, pattern: re.Pattern[str]) -> Iterator[Record | Fault]:
    number = 0
    for number, match in enumerate(pattern.finditer(text), start=1):
        yield Record(number, match[1 if pattern.groups else 0], {})
    if not number and text.strip():
        raise Fault("no_match", "prepare.read.pattern matches nothing in it")


def read_jsonl(path: Path, settings: Read, limit: int, span: Span | None = None) -> Iterator[Record | Fault]:
    """Yield the lines of a JSONL file, or those that begin in a span of it; blank ones are none."""
    from orjson import JSONDecodeError, loads

    fields = fields_of(settings)
    with open_stream(path) as stream:
        for number, line in enumerate(lines(stream, limit, span), start=1):
            if line is None:
                yield too_long(number, limit)
                continue
            if line.startswith(_BOM):  # files that were put together have it inside
                line = line[len(_BOM) :]
            if line.isspace() or not line:
                continue
            try:
                record = loads(line)
            except JSONDecodeError as error:
                try:
                    record = _load_leniently(line, error)
                except Fault as fault:
                    fault.number = number
                    yield fault
                    continue
            if isinstance(record, dict):
                yield _mapped(number, record, settings.text_field, fields)
            else:
                yield Fault("not_an_object", f"JSON, but a {type(record).__name__} and no object", number)


def _load_leniently(line: bytes, error: Exception) -> Any:
    """Load JSON with lone surrogates, which JavaScript writes and orjson refuses, as U+FFFD; else raise its `Fault`."""
    import json

    decode(line)
    if b"\0" in line:
        raise nul_bytes(line.decode())
    if _SURROGATE.search(line):
        try:
            record = json.loads(line, parse_constant=_refuse)
            dumped = json.dumps(record, ensure_ascii=False)
            return json.loads(dumped.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        except (ValueError, RecursionError):
            pass  # orjson says it better
    raise Fault("invalid_json", f"not valid JSON ({error}); a line must hold one whole object") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def read_parquet(path: Path, settings: Read, limit: int, span: Span | None = None) -> Iterator[Record | Fault]:
    """Yield the rows of a Parquet file, or of the row groups that begin in a span; raise `UserError` without such a text column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.stat().st_size:
        return
    fields = fields_of(settings)
    try:
        # buffer_size streams a column of a row group, which would else be read whole.
        with pq.ParquetFile(
            path, pre_buffer=False, buffer_size=_PARQUET_BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            schema = file.schema_arrow
            if not _has_column(schema, settings.text_field):
                raise UserError(
                    f"{path}: has no column {settings.text_field!r} but {', '.join(schema.names)};"
                    " set prepare.read.text_field, or that of the source in prepare.by_source"
                )
            columns = [name for name in (settings.text_field, *fields) if _has_column(schema, name)]
            groups, number = _row_groups(file.metadata, span)
            for batch in file.iter_batches(_PARQUET_ROWS, groups, columns, use_threads=False):
                for row in _rows(batch):
                    number += 1
                    if isinstance(row, UnicodeDecodeError):
                        yield Fault("not_utf8", f"not UTF-8 text (byte {row.start})", number)
                        continue
                    record = _mapped(number, row, settings.text_field, fields)
                    if fields and isinstance(record, Record):
                        record = record._replace(values=_plain(record.values))
                    yield record
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):  # this machine, not the file
            raise
        raise _parquet_fault(path, error) from None


def _row_groups(metadata: Any, span: Span | None) -> tuple[list[int], int]:
    """Return the row groups that begin in a span of the file, and how many rows are before them."""
    groups, before, rows = list[int](), 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        column = group.column(0)
        begins = column.dictionary_page_offset or column.data_page_offset
        if span is None or span[0] <= begins < span[1]:
            before = before if groups else rows
            groups.append(number)
        rows += group.num_rows
    return groups, before


def _rows(batch: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # Arrow does not look into the strings that it reads
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


def _has_column(schema: Any, path: str) -> bool:
    """Tell whether a schema has a column of this name, or the field that the dots of it lead to."""
    if path in schema.names:
        return True
    name, *keys = path.split(".")
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    for key in keys:
        if not hasattr(kind, "get_field_index") or kind.get_field_index(key) < 0:
            return False
        kind = kind.field(key).type
    return True


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON has for dates, decimals and bytes."""
    from orjson import dumps, loads

    return loads(
        dumps(values, default=lambda value: value.decode(errors="replace") if type(value) is bytes else str(value))
    )


def _parquet_fault(path: Path, error: Exception) -> Fault:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        tail = file.read()
    if head != b"PAR1":
        return Fault("corrupt", "no Parquet file, whatever its name says")
    if tail != b"PAR1":
        return Fault("truncated", "the Parquet file breaks off: its footer is missing")
    return Fault("corrupt", f"the Parquet data is damaged ({' '.join(str(error).split())})")


def fields_of(settings: Read) -> tuple[str, ...]:
    """Return the fields to keep beside the text."""
    return (*settings.metadata_fields, *([settings.id_field] if settings.id_field else []))


def _mapped(number: int, record: dict[str, Any], text_field: str, fields: tuple[str, ...]) -> Record | Fault:
    text = find_field(record, text_field)
    if text is _ABSENT:
        return Fault(
            "missing_text", f"has no text field {text_field!r} but {', '.join(map(repr, list(record)[:10]))}", number
        )
    return Record(
        number, text, {field: None if (value := find_field(record, field)) is _ABSENT else value for field in fields}
    )


def find_field(record: dict[str, Any], path: str) -> Any:
    """Return the field of this name, or that the dots of it lead to, through null to null; `_ABSENT` if there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for key in path.split("."):
        if value is None:
            break
        if not isinstance(value, dict) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def decode(data: bytes) -> str:
    """Return UTF-8 without a byte order mark as text; raise `Fault` not_utf8."""
    try:
        return data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        looks = next((f"; {what}" for start, what in _SIGNATURES.items() if data.startswith(start)), "")
        raise Fault("not_utf8", f"not UTF-8 text (byte {error.start}{looks})") from None


def nul_bytes(text: str) -> Fault:
    """Return the fault of a text with NUL bytes; in UTF-16 without a byte order mark every second one is."""
    begins = text[:_LOOKED_AT]
    looks = "; it looks like UTF-16: convert it to UTF-8" if 3 * begins.count("\0") > len(begins) else ""
    return Fault("nul_bytes", f"holds NUL bytes, so it is no text{looks}")


def too_long(number: int, limit: int) -> Fault:
    return Fault("too_long", f"longer than prepare.max_document_bytes ({limit})", number)
