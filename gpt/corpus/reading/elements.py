"""The elements of a JSON array in constant memory: where each begins and ends, not what it means.

Only quotation marks, brackets and commas are looked at, so an element that is no JSON costs itself and not the file; the
parser judges it.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from gpt.corpus.reading.streams import Fault, open_stream

_CHUNK_BYTES = 1 << 20
_BLANK = b" \t\r\n\xef\xbb\xbf"  # and a byte order mark
_IN_STRING = re.compile(rb'["\\]')
_BETWEEN = re.compile(rb'["{}\[\],]')
_CLOSES = {ord("}"): ord("{"), ord("]"): ord("[")}
_DEEPEST = 1024  # as the parser has it


def is_array(path: Path) -> bool:
    """Tell whether the first sign in a JSON file opens an array; raises the `Fault` of damaged compression."""
    with open_stream(path) as stream:
        while chunk := stream.read1(1 << 12):
            if first := chunk.lstrip(_BLANK):
                return first.startswith(b"[")
    return False


def elements(stream: io.BufferedReader, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the elements of the array that a stream holds, each with the offset of its first byte.

    None stands for one longer than `limit` bytes, of which no more is held. Raises `Fault` for what ends the array elsewhere.
    """
    scan = _Scan(stream, limit)
    while scan.peek() in _BLANK:
        scan.position += 1
    scan.position = scan.start = scan.position + 1  # behind the [ that `is_array` saw
    is_last, is_empty = scan.find_end(), scan.is_blank()
    element = scan.take()
    if not (is_last and is_empty):
        yield element
    while not is_last:
        is_last = scan.find_end()
        yield scan.take()
    while (sign := scan.peek(at_end=-1)) >= 0:
        if sign not in _BLANK:
            raise Fault("invalid_json", f"byte {scan.offset():,}: something follows the array's end")
        scan.position += 1
        scan.start = scan.position


class _Scan:
    """A window of a stream that moves on: the element that begins at `start`, of which what is before `position` is seen."""

    def __init__(self, stream: io.BufferedReader, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self._buffer = bytearray()
        self._before = 0  # bytes of the stream that are no longer in the buffer
        self._is_too_long, self._begins = False, 0
        self.start = self.position = 0

    def offset(self) -> int:
        """Return how many bytes of the stream are before `position`."""
        return self._before + self.position

    def peek(self, at_end: int | None = None) -> int:
        """Return the byte at `position`."""
        if self.position == len(self._buffer) and not self._refill():
            if at_end is None:
                raise self._breaks_off()
            return at_end
        return self._buffer[self.position]

    def find_end(self) -> bool:
        """Go to the comma or bracket that ends the element; tell whether it is the array's own bracket."""
        self._begins = self._before + self.start
        opened, in_string = bytearray(), False
        while True:
            found = (_IN_STRING if in_string else _BETWEEN).search(self._buffer, self.position)
            if found is None or (in_string and found[0] == b"\\" and found.end() == len(self._buffer)):
                self.position = len(self._buffer) if found is None else found.start()
                if not self._refill():
                    raise self._breaks_off()
                continue
            self.position = found.end()
            match found[0]:
                case b'"':
                    in_string = not in_string
                case b"\\":
                    self.position += 1
                case b"{" | b"[":
                    opened += found[0]
                    if len(opened) > _DEEPEST:
                        raise Fault("invalid_json", f"byte {self.offset():,}: nested deeper than {_DEEPEST}")
                case b"," if not opened:
                    self.position -= 1
                    return False
                case b"}" | b"]" if opened and opened[-1] == _CLOSES[found[0][0]]:
                    del opened[-1]
                case b"]" if not opened:
                    self.position -= 1
                    return True
                case b"}" | b"]":
                    raise Fault(
                        "invalid_json", f"byte {self.offset():,}: a {found[0].decode()} closes what it does not open"
                    )

    def is_blank(self) -> bool:
        return not self._is_too_long and not self._buffer[self.start : self.position].strip(_BLANK)

    def take(self) -> tuple[int, bytes | None]:
        """Return the element and where it begins, and go behind the sign that ends it."""
        element = bytes(self._buffer[self.start : self.position])
        stripped = element.lstrip(_BLANK)
        offset = self._begins + len(element) - len(stripped)
        is_too_long = self._is_too_long or len(stripped.rstrip(_BLANK)) > self._limit
        self.position = self.start = self.position + 1
        self._is_too_long = False
        return (self._begins, None) if is_too_long else (offset, stripped.rstrip(_BLANK))

    def _refill(self) -> bool:
        """Add what comes next to the window; tell whether something did."""
        if self.position - self.start > self._limit:
            self._is_too_long, self.start = True, self.position
        del self._buffer[: self.start]
        self._before += self.start
        self.position, self.start = self.position - self.start, 0
        chunk = self._stream.read1(_CHUNK_BYTES)  # not read: what came before damage would be lost
        self._buffer += chunk
        return bool(chunk)

    def _breaks_off(self) -> Fault:
        return Fault("truncated", f"byte {self.offset():,}: the array breaks off, with no ] that ends it")
