"""Parquet and Arrow files to records, a few rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.corpus.reading.fields import Record, check_columns, kept_fields, read_record
from gpt.corpus.reading.streams import Fault, Span
from gpt.params.corpus import Read

# Rows at a time: a batch of long documents is held in memory, and 256 are no faster than 64.
_ROWS = 64
_PARQUET_BUFFER_BYTES = 1 << 20
_ARROW_FILE = b"ARROW1"
_FEATHER_1 = b"FEA1"


def read_parquet(path: Path, settings: Read, limit: int, span: Span | None = None) -> Iterator[Record | Fault]:
    """Yield the rows of a Parquet file, or of the row groups that begin in a span; raise a `Fault` without such a text column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.stat().st_size:
        return
    try:
        # buffer_size streams a column of a row group, which would else be read whole.
        with pq.ParquetFile(
            path, pre_buffer=False, buffer_size=_PARQUET_BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            columns = _columns(file.schema_arrow, settings)
            groups, number = _row_groups(file.metadata, span)
            for batch in file.iter_batches(_ROWS, groups, columns, use_threads=False):
                yield from _records(batch, number, settings)
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        if _is_of_machine(error):
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


def read_arrow(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield the rows of an Arrow IPC file (Feather 2) or stream, of which a record batch at a time is held.

    Raises a `Fault` without such a text column.
    """
    import pyarrow as pa

    if not path.stat().st_size:
        return
    number = 0
    try:
        for batch in _batches(path, settings):
            for start in range(0, batch.num_rows, _ROWS):
                rows = batch.slice(start, _ROWS)
                yield from _records(rows, number, settings)
                number += rows.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        if _is_of_machine(error):
            raise
        raise _arrow_fault(path, error) from None


def _batches(path: Path, settings: Read) -> Iterator[Any]:
    """Yield the record batches of a file with the columns that are wanted, each checked: Arrow would follow any offset."""
    import pyarrow as pa

    # Not a memory map: of one whose file is cut meanwhile, or whose disk fails, the process dies.
    with pa.OSFile(str(path), "rb") as file:
        is_file = file.read(len(_ARROW_FILE)) == _ARROW_FILE
        file.seek(0)
        schema = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).schema
        tops = {name.partition(".")[0] if name not in schema.names else name for name in _columns(schema, settings)}
        indices = [index for index, name in enumerate(schema.names) if name in tops]
        options = pa.ipc.IpcReadOptions(included_fields=indices, use_threads=False)
        file.seek(0)
        if is_file:
            reader = pa.ipc.open_file(file, options=options)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        else:
            batches = pa.ipc.open_stream(file, options=options)
        for batch in batches:
            batch.validate()
            yield batch


def _columns(schema: Any, settings: Read) -> list[str]:
    return check_columns(schema.names, lambda name: _has_column(schema, name), settings)


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


def _records(batch: Any, before: int, settings: Read) -> Iterator[Record | Fault]:
    """Yield the rows of a batch that so many others come before."""
    fields = kept_fields(settings)
    for number, row in enumerate(_rows(batch), start=before + 1):
        if isinstance(row, Fault):
            row.number = number
            yield row
            continue
        record = read_record(number, row, settings)
        if fields and isinstance(record, Record):
            record = record._replace(values=_plain(record.values))
        yield record


def _rows(batch: Any) -> Iterator[dict[str, Any] | Fault]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # Arrow does not look into the strings that it reads
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield Fault("not_utf8", f"not UTF-8 text (byte {error.start})")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON has for dates, decimals and bytes."""
    from orjson import dumps, loads

    return loads(
        dumps(values, default=lambda value: value.decode(errors="replace") if type(value) is bytes else str(value))
    )


def _is_of_machine(error: Exception) -> bool:
    """Tell whether this machine is at fault, and not the file."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and bool(error.errno))


def _parquet_fault(path: Path, error: Exception) -> Fault:
    head, tail = _ends(path, 4)
    if head != b"PAR1":
        return Fault("corrupt", "no Parquet file, whatever its name says")
    if tail != b"PAR1":
        return Fault("truncated", "the Parquet file breaks off: its footer is missing")
    return Fault("corrupt", f"the Parquet data is damaged ({' '.join(str(error).split())})")


def _arrow_fault(path: Path, error: Exception) -> Fault:
    head, tail = _ends(path, len(_ARROW_FILE))
    if head.startswith(_FEATHER_1):
        return Fault("corrupt", "a Feather file of version 1; write it again with version 2, which is Arrow's own")
    message = " ".join(str(error).split())
    if head == _ARROW_FILE and tail != _ARROW_FILE:
        return Fault("truncated", "the Arrow file breaks off: its footer is missing")
    if head != _ARROW_FILE and message.startswith("Expected to be able to read"):
        return Fault("truncated", f"the Arrow stream breaks off ({message})")
    return Fault("corrupt", f"no Arrow file or stream, or a damaged one ({message})")


def _ends(path: Path, size: int) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        head = file.read(size)
        file.seek(max(0, path.stat().st_size - size))
        return head, file.read()
