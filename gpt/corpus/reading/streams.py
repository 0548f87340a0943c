"""Bytes of raw files in constant memory: decompression that notices damage, lines and pieces of bounded length.

What is wrong with a file is a `Fault` with a reason to count it by; whether that ends the run is the caller's choice.
"""

import bz2
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt.sources.kinds import COMPRESSIONS

Span = tuple[int, int]
"Of a file's bytes: what begins at the first or after it, and before the second."
_CHUNK_BYTES = 1 << 20
# What goes into a decompressor at a time bounds what comes out: deflate makes at most 1,032 bytes of one, zstd 32,768.
# bzip2, which makes a million, is asked for a chunk at a time.
_SLICE_BYTES = {".gz": 16 << 10, ".bz2": 64 << 10, ".zst": 1 << 10}
# Text compresses about 3:1 to 10:1, logs 50:1, the same line again and again 1,000:1 and more: that may be short.
BOMB_BYTES = 1 << 30
BOMB_RATIO = 1000
# `zstd --long=31`, as Reddit's dumps have it. Only a file that says so takes the memory.
_ZSTD_WINDOW_BYTES = 1 << 31


class Fault(Exception):
    """What cannot be read: a record (`number`, from 1) where it is yielded, the rest of the file where it is raised."""

    def __init__(self, reason: str, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.reason, self.message, self.number = reason, message, number


def open_stream(path: Path) -> io.BufferedReader:
    """Open a file for reading, through gzip, bzip2 or zstd if its name says so.

    Reading raises `Fault` truncated, corrupt or bomb; what came before it is given out first.
    """
    suffix = path.suffix.lower()
    file = path.open("rb")
    return io.BufferedReader(_Inflated(file, suffix), _CHUNK_BYTES) if suffix in COMPRESSIONS else file


def lines(stream: io.BufferedReader, limit: int, span: Span | None = None) -> Iterator[bytes | None]:
    """Yield the lines of a stream with their ends; None for one longer than `limit` bytes, of which no more is held.

    With a span only those that begin in it; the stream is an open file then.
    """
    position, end = span or (0, None)
    if position:  # from the byte before: a line may begin just here
        position = stream.seek(position - 1) + _skip_line(stream)
    while (end is None or position < end) and (line := stream.readline(limit + 1)):
        position += len(line)
        if len(line) > limit and not line.endswith(b"\n"):
            position += _skip_line(stream)
            yield None
        else:
            yield line


def _skip_line(stream: io.BufferedReader) -> int:
    """Go to where the next line begins; return how many bytes that was."""
    skipped = 0
    while line := stream.readline(_CHUNK_BYTES):
        skipped += len(line)
        if line.endswith(b"\n"):
            break
    return skipped


def pieces(stream: io.BufferedReader, separator: bytes, limit: int) -> Iterator[bytes | None]:
    """Yield what stands between the separators, as `bytes.split` does, with CRLF as LF in both.

    What is blank after the last separator is left out: it is the end of the file. None stands for a piece longer than
    `limit` bytes; no more than that is held.
    """
    separator = separator.replace(b"\r\n", b"\n")
    buffer, searched, too_long = bytearray(), 0, False
    for chunk in _with_plain_line_ends(stream):
        buffer += chunk
        begin = 0
        while (end := buffer.find(separator, searched)) >= 0:
            yield None if too_long or end - begin > limit else bytes(buffer[begin:end])
            begin = searched = end + len(separator)
            too_long = False
        # A separator may have begun in the last bytes: they are searched again with the next ones.
        searched = max(begin, len(buffer) - len(separator) + 1)
        if too_long or searched - begin > limit:
            too_long, begin = True, searched
        del buffer[:begin]
        searched -= begin
    if too_long or len(buffer) > limit:
        yield None
    elif buffer.strip():
        yield bytes(buffer)


def _with_plain_line_ends(stream: io.BufferedReader) -> Iterator[bytes]:
    held = b""
    # read1: with read, what came before damage in the same chunk would be lost.
    while chunk := stream.read1(_CHUNK_BYTES):
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        yield chunk.removesuffix(b"\r").replace(b"\r\n", b"\n")
    yield held


class _Inflated(io.RawIOBase):
    """The decompressed bytes of an open file."""

    def __init__(self, file: io.BufferedReader, suffix: str) -> None:
        self._file = file
        self._pieces = _inflate(file, suffix)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _inflate(file: io.BufferedReader, suffix: str) -> Iterator[bytes]:
    """Yield what the gzip members, bzip2 streams or zstd frames of a file hold, a bounded piece at a time."""
    start, error_class = _decompressor(suffix)
    allowed = max(BOMB_BYTES, BOMB_RATIO * file.seek(0, io.SEEK_END))
    file.seek(0)
    given, engine = 0, None
    while data := file.read(_SLICE_BYTES[suffix]):
        # Between members there may be zeros, with which a tape or file system filled up.
        while data := data if engine else data.lstrip(b"\0"):
            engine = engine or start()
            try:
                for piece in _pieces(engine, data):
                    given += len(piece)
                    if given > allowed:
                        message = f"{suffix} data of over {BOMB_RATIO} times the file's size, which text never is"
                        raise Fault("bomb", message)
                    if piece:
                        yield piece
            except error_class as error:
                raise Fault("corrupt", f"the {suffix} data is damaged ({error})") from None
            data = b""
            if engine.eof:
                data, engine = engine.unused_data, None  # another member may follow
    if engine:
        raise Fault("truncated", f"the {suffix} data breaks off")


def _pieces(engine: Any, data: bytes) -> Iterator[bytes]:
    """Yield what some bytes unpack to, bounded pieces of it."""
    if not isinstance(engine, bz2.BZ2Decompressor):
        yield engine.decompress(data)
        return
    yield engine.decompress(data, _CHUNK_BYTES)
    while not engine.eof and not engine.needs_input:
        yield engine.decompress(b"", _CHUNK_BYTES)


def _decompressor(suffix: str) -> tuple[Callable[[], Any], type[Exception]]:
    """Return what makes a decompressor for one gzip member, bzip2 stream or zstd frame, and the error that it raises for damage."""
    if suffix == ".gz":
        return lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), zlib.error
    if suffix == ".bz2":
        return bz2.BZ2Decompressor, OSError  # which has no errno: the file is read outside of it
    import zstandard

    # Not its stream_reader, which takes a file that breaks off for one that ends.
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj, zstandard.ZstdError
