"""WARC files (web pages) and WET files (their text) to records.

datatrove's `process_record` is not used: it drops what it cannot decode without a word, and asks libmagic, which
differs from machine to machine, what is text. Which records count and how they are decoded is as there.
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

from gpt.corpus.reading.fields import Record, kept_fields
from gpt.corpus.reading.pages import decode_page, visible_text
from gpt.corpus.reading.streams import Fault, open_stream
from gpt.corpus.reading.texts import too_long
from gpt.params.corpus import Read

_HTML = ("text/html", "application/xhtml+xml")
_BLOCK_BYTES = 1 << 16


def read_warc(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield the HTML responses of a WARC file as the text that they show, and the text records of a WET file.

    The fields of a record are `url`, `date`, `id` and its WARC headers by name.
    """
    fields = kept_fields(settings)
    with open_stream(path) as stream:
        # The stream is decompressed: warcio would pass over damage, and wants a gzip member a record.
        archive = _archive_iterator()(_AsItComes(stream))
        number, misfits = 0, 0
        while (record := _next(archive)) is not None:
            number += 1
            if archive.err_count > misfits:
                misfits = archive.err_count
                yield Fault("corrupt", "does not end where its Content-Length says", number - 1)
            if record.rec_type not in ("response", "conversion"):
                continue
            if record.length is None:
                raise Fault("corrupt", f"record {number} has no Content-Length")
            try:
                if (text := _text(record, number, limit)) is not None:
                    headers = dict(record.rec_headers.headers)
                    headers |= {"url": headers.get("WARC-Target-URI", headers.get("uri"))}
                    headers |= {"date": headers.get("WARC-Date", headers.get("archive-date"))}
                    headers |= {"id": headers.get("WARC-Record-ID")}
                    yield Record(number, text, {field: headers[field] for field in fields if field in headers})
            except Fault as fault:
                if not fault.number:
                    raise
                yield fault


class _AsItComes:
    """A stream whose `read` returns what there is: waiting for more, it would lose what comes just before damage."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.read = stream.read1


def _next(archive: Any) -> Any:
    """Return the next record, or None; what warcio makes of a damaged header is a `Fault`."""
    try:
        return next(archive, None)
    except (Fault, OSError, MemoryError):
        raise
    except Exception as error:  # each damage another: ArchiveLoadFailed, AttributeError, EOFError, …
        raise Fault("corrupt", f"no WARC record follows ({' '.join(str(error).split())})") from None


def _text(record: Any, number: int, limit: int) -> str | None:
    """Return the text of a record, None if it holds none; raise its `Fault`, without a number for the rest of the file."""
    data = _payload(record, number, limit)
    if not _is_text(record, data):
        return None
    try:
        text = decode_page(data)
        return text if record.rec_type == "conversion" else visible_text(text)
    except Fault as fault:
        fault.number = number
        raise


def _payload(record: Any, number: int, limit: int) -> bytes:
    with redirect_stderr(io.StringIO()) as said:  # where warcio reports damage
        data = record.content_stream().read(limit + 1)
    if len(data) > limit:
        raise too_long(number, limit)
    while record.raw_stream.read(_BLOCK_BYTES):
        pass
    if record.raw_stream.limit:
        raise Fault("truncated", f"record {number} breaks off")
    if said.getvalue():
        raise Fault("corrupt", f"its content is damaged ({said.getvalue().strip()})", number)
    return data


def _is_text(record: Any, data: bytes) -> bool:
    kind = record.rec_headers.get_header("WARC-Identified-Payload-Type")
    if record.rec_type == "conversion":
        return kind in (None, "text/plain", *_HTML)
    if kind is None and record.http_headers:
        kind = (record.http_headers.get_header("Content-Type") or "").partition(";")[0].strip().lower()
    return kind in _HTML or (not kind and b"<html" in data[:1024].lower())


@cache
def _archive_iterator() -> Any:
    from warcio.archiveiterator import ArchiveIterator

    class Quiet(ArchiveIterator):
        INC_RECORD = ""  # it writes that to stderr; err_count says it too

    return Quiet
