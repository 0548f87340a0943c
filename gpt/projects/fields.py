"""Which field of records holds the text, where none is called `text`: a look at the first ones of a file.

What cannot be read here is no error: the readers of prepare, which come next, say what is wrong and where.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from gpt.corpus.reading.elements import elements, is_array
from gpt.corpus.reading.streams import Fault, lines, open_stream

_RECORDS, _RECORD_BYTES = 100, 1 << 20
_DELIMITERS = (",", ";", "\t", "|")
"Of CSV: where a comma stands in numbers, spreadsheets write a semicolon."
# Of a chat's messages: whose it is, and what is said.
_CHATS = (("role", "content"), ("from", "value"))


def find_text(path: Path, kind: str) -> dict[str, Any]:
    """Return what `prepare.read` has to say of the records of a file in a format, by its keys: nothing if they have a `text`.

    Chats are told by lists of messages; else the field with most text is taken, also one in an object or of a list of strings.
    """
    sizes, chats, delimiter = Counter[str](), dict[str, str](), ""
    try:
        delimiter = _delimiter(path) if kind == "csv" else ""
        for record in islice(_records(path, kind, delimiter), _RECORDS):
            for name, size in _texts(record):
                sizes[name] += size
            for name, value in record.items():
                if form := _chat(value):
                    chats[name] = form
    except (Fault, OSError, ValueError, RecursionError, csv.Error):  # of pyarrow too, whose errors are of these
        pass
    found = {"delimiter": delimiter} if delimiter else {}
    if "text" in sizes:
        return found
    for name, form in chats.items():
        return {"text_field": name, "message": form}
    return found | ({"text_field": sizes.most_common(1)[0][0]} if sizes else {})


def _texts(record: dict[str, Any], way: str = "") -> Iterator[tuple[str, int]]:
    """Yield the fields of a record that hold text, by the dots that lead to them, and how many characters."""
    for name, value in record.items():
        match value:
            case str():
                yield f"{way}{name}", len(value)
            case list() if value and all(isinstance(each, str) for each in value):
                yield f"{way}{name}", sum(map(len, value))
            case dict():
                yield from _texts(value, f"{way}{name}.")


def _delimiter(path: Path) -> str:
    """Return what stands between the columns of a table whose header has no comma, "" if that says nothing else.

    Its rows must have as many fields as its header: a header of one column may hold any sign.
    """
    with open_stream(path) as stream:
        lines = stream.read(_RECORD_BYTES).decode("utf-8-sig", errors="replace").splitlines(keepends=True)
    for delimiter in _DELIMITERS:
        rows = [len(row) for row in islice(csv.reader(lines, delimiter=delimiter), _RECORDS) if row]
        if delimiter == "," and rows[:1] != [1]:
            return ""
        if rows[0] > 1 and set(rows) == {rows[0]}:
            return delimiter
    return ""


def _chat(value: Any) -> str:
    """Return how a message of a chat is written as text, "" if a value is no chat."""
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict):
        return ""
    return next((f"{{{who}}}: {{{what}}}" for who, what in _CHATS if {who, what} <= first.keys()), "")


def _records(path: Path, kind: str, delimiter: str) -> Iterator[dict[str, Any]]:
    match kind:
        case "jsonl" | "json":
            yield from _objects(path, as_array=kind == "json" and is_array(path))
        case "csv" | "tsv":
            with open_stream(path) as stream:
                text = io.StringIO(stream.read(_RECORD_BYTES).decode("utf-8-sig", errors="replace"))
            yield from csv.DictReader(text, delimiter=delimiter or ("\t" if kind == "tsv" else ","))
        case "parquet":
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as table:
                yield from next(table.iter_batches(batch_size=_RECORDS), table.schema_arrow.empty_table()).to_pylist()
        case "arrow":
            import pyarrow as pa

            with pa.OSFile(str(path), "rb") as file:
                try:
                    batch = pa.ipc.open_file(file).get_batch(0)
                except pa.ArrowInvalid:
                    file.seek(0)
                    batch = next(iter(pa.ipc.open_stream(file)))
                yield from batch.slice(0, _RECORDS).to_pylist()


def _objects(path: Path, *, as_array: bool) -> Iterator[dict[str, Any]]:
    with open_stream(path) as stream:
        found = (data for _, data in elements(stream, _RECORD_BYTES)) if as_array else lines(stream, _RECORD_BYTES)
        for data in found:
            record = json.loads(data) if data and not data.isspace() else None
            if isinstance(record, dict):
                yield record
