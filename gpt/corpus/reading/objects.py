"""JSON to records: an object a line, or all of them in one array, on lines of their own or not."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.corpus.reading.elements import elements
from gpt.corpus.reading.fields import Record, read_record
from gpt.corpus.reading.streams import Fault, Span, lines, open_stream
from gpt.corpus.reading.texts import BOM, decode, nul_bytes, too_long
from gpt.params.corpus import Read

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_jsonl(path: Path, settings: Read, limit: int, span: Span | None = None) -> Iterator[Record | Fault]:
    """Yield the lines of a JSONL file, or those that begin in a span of it; blank ones are none."""
    with open_stream(path) as stream:
        for number, line in enumerate(lines(stream, limit, span), start=1):
            if line is None:
                yield too_long(number, limit)
                continue
            line = line.removeprefix(BOM)  # files that were put together have it inside
            if line and not line.isspace():
                yield _record(number, line, settings, "a line must hold one whole object")


def read_array(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield the objects of a JSON array, of which one at a time is held; what is wrong with one says at which byte it begins."""
    with open_stream(path) as stream:
        for number, (offset, data) in enumerate(elements(stream, limit), start=1):
            if data is None:
                record = too_long(number, limit)
            else:
                record = _record(number, data, settings, "the array must hold objects, with one comma between two")
            if isinstance(record, Fault):
                record.message += f" (it begins at byte {offset:,})"
            yield record


def _record(number: int, data: bytes, settings: Read, rule: str) -> Record | Fault:
    from orjson import JSONDecodeError, loads

    try:
        record = loads(data)
    except JSONDecodeError as error:
        try:
            record = _load_leniently(data, error, rule)
        except Fault as fault:
            fault.number = number
            return fault
    if isinstance(record, dict):
        return read_record(number, record, settings)
    return Fault("not_an_object", f"JSON, but a {type(record).__name__} and no object", number)


def _load_leniently(data: bytes, error: Exception, rule: str) -> Any:
    """Load JSON with lone surrogates, which JavaScript writes and orjson refuses, as U+FFFD; else raise its `Fault`."""
    import json

    decode(data)
    if b"\0" in data:
        raise nul_bytes(data.decode())
    if _SURROGATE.search(data):
        try:
            record = json.loads(data, parse_constant=_refuse)
            dumped = json.dumps(record, ensure_ascii=False)
            return json.loads(dumped.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        except (ValueError, RecursionError):
            pass  # orjson says it better
    raise Fault("invalid_json", f"not valid JSON ({error}); {rule}") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
