"""Text files to records: whole, or in pieces; source code as it stands."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from gpt.corpus.reading.fields import Record
from gpt.corpus.reading.streams import Fault, open_stream, pieces
from gpt.params.corpus import Read

BOM = b"\xef\xbb\xbf"
# How other things than text begin, to say what they are.
_SIGNATURES = {
    b"\xff\xfe": "it looks like UTF-16",
    b"\xfe\xff": "it looks like UTF-16",
    b"\x1f\x8b": "it looks like gzip data, whose name should end in .gz",
    b"\x28\xb5\x2f\xfd": "it looks like zstd data, whose name should end in .zst",
    b"BZh": "it looks like bzip2 data, whose name should end in .bz2",
}
_LOOKED_AT = 100  # characters, to tell what it is


def read_text(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield the documents of a text file: what stands between separators or matches the pattern, else all of it."""
    with open_stream(path) as stream:
        if settings.separator:
            yield from _read_pieces(stream, settings.separator.encode(), limit)
            return
        data = _read_whole(stream, limit, "; set prepare.read.separator")
    if not data:
        return
    text = decode(data)
    if settings.pattern:
        yield from _read_matches(text.replace("\r\n", "\n"), re.compile(settings.pattern))
    else:
        yield Record(1, text, {})


def read_code(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield a file of source code as one document, whatever separates those of the source's text files."""
    with open_stream(path) as stream:
        data = _read_whole(stream, limit)
    if data:
        yield Record(1, decode(data), {})


def _read_whole(stream: io.BufferedReader, limit: int, advice: str = "") -> bytes:
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise Fault("too_long", f"longer than prepare.max_document_bytes ({limit}){advice}")
    return data


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


def decode(data: bytes) -> str:
    """Return UTF-8 without a byte order mark as text; raise `Fault` not_utf8."""
    try:
        return data.removeprefix(BOM).decode()
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
