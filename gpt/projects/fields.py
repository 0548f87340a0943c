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
# Of a chat's messages: whose it is, and what is said.
_CHATS = (("role", "content"), ("from", "value"))


def find_text(path: Path, kind: str) -> dict[str, Any]:
    """Return what `prepare.read` has to say of the records of a file in a format, by its keys: nothing if they have a `text`.

    Chats are told by lists of messages; else the field with most text is taken.
    """
    sizes, chats = Counter[str](), dict[str, str]()
    try:
        for record in islice(_records(path, kind), _RECORDS):
            for name, value in record.items():
                if isinstance(value, str):
                    sizes[name] += len(value)
                elif form := _chat(value):
                    chats[name] = form
    except (Fault, OSError, ValueError, RecursionError, csv.Error):  # of pyarrow too, whose errors are of these
        pass
    if "text" in sizes:
        return {}
    for name, form in chats.items():
        return {"text_field": name, "message": form}
    return {"text_field": sizes.most_common(1)[0][0]} if sizes else {}


def _chat(value: Any) -> str:
    """Return how a message of a chat is written as text, "" if a value is no chat."""
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict):
        return ""
    return next((f"{{{who}}}: {{{what}}}" for who, what in _CHATS if {who, what} <= first.keys()), "")


def _records(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    match kind:
        case "jsonl" | "json":
            yield from _objects(path, as_array=kind == "json" and is_array(path))
        case "csv" | "tsv":
            with open_stream(path) as stream:
                text = io.StringIO(stream.read(_RECORD_BYTES).decode("utf-8-sig", errors="replace"))
            yield from csv.DictReader(text, delimiter="\t" if kind == "tsv" else ",")
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
