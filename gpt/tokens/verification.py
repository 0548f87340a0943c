"""Token shards against the hashes of their index: several at a time, and each once for as long as nothing touches it.

What was verified is noted beside the folder, in `.<folder>.verified`: of each shard its hash and what the file system said of it,
size, times and inode. A shard of which all that is as it was is not read again. A change that keeps size and modification time
(`cp -p`, `touch -r`) is seen by the time of the inode's change, which nobody can set. What no file system notices, as bits that
turned on a disk, only a full reading finds: `again` (`gpt tokens verify`). A note that is lost or damaged costs a reading.
"""

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, Self

from gpt.corpus.splits import SPLITS
from gpt.errors import UserError
from gpt.files import write_json
from gpt.limits import usable_cores
from gpt.tokens.shards import read_index

_CHUNK_BYTES = 1 << 20  # a stop is obeyed after one of them
_MOST_THREADS = 32  # they hash faster than any disk reads
_EXCHANGE_SECONDS = 10.0  # a killed verification loses so much work; so often it is told how far it is
# A change within the resolution of a file system's clock (FAT's is the coarsest) leaves the times as they were: what was written
# just now is not noted, but read again at the next start.
_RESOLUTION_NS = 2 * 10**9
_FORMAT = 1
_HINT = "run `gpt tokenize` again"

_log = logging.getLogger(__name__)


class Stamp(NamedTuple):
    """A shard's hash and what the file system says of the file that has it."""

    sha256: str
    size: int
    modified_ns: int
    changed_ns: int
    "When the inode was changed last: by writing, and by whatever sets the time of modification back."
    inode: int


class Verification:
    """Hashes the shards of `splits` in threads, from `with` on; `wait` tells when all are done.

    Machines that share a folder share the work: machine m of `part` = (m, machines) begins at another place, and leaves out what
    others have noted. `again` reads every shard, whatever was noted. `tell` is called now and then with a line about how far it is.
    Raises `UserError` if the index is missing, and in `wait` if a shard is not the index's.
    """

    def __init__(
        self,
        folder: Path,
        splits: Iterable[str] = SPLITS,
        *,
        threads: int | None = None,
        part: tuple[int, int] = (0, 1),
        again: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        described = read_index(folder)["splits"]
        self._folder, self._tell = folder, tell
        self._threads = min(threads or usable_cores(), _MOST_THREADS)
        self._notes = Notes(folder, {shard["file"] for split in SPLITS for shard in described[split]["shards"]})
        shards: list[dict[str, Any]] = [shard for split in splits for shard in described[split]["shards"]]
        first = len(shards) * part[0] // part[1]
        left = [shard for shard in (*shards[first:], *shards[:first]) if again or not self._is_known(shard)]
        self._left, self._count = deque(left), len(left)
        self._is_again, self._stop, self._lock = again, threading.Event(), threading.Lock()
        self.read_bytes = 0
        self._done, self._next_exchange = 0, time.monotonic() + _EXCHANGE_SECONDS
        self._running: set[Future[None]] = set()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._threads, "verify")
        self._running = {self._pool.submit(self._work) for _ in range(min(self._threads, self._count))}
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._notes.exchange()

    def wait(self, seconds: float) -> bool:
        """Return whether all is done, after so long at most; raise `UserError` if a shard is not the index's."""
        done, self._running = wait_for(self._running, seconds, FIRST_EXCEPTION)
        for future in done:
            future.result()
        if time.monotonic() >= self._next_exchange:
            self._next_exchange = time.monotonic() + _EXCHANGE_SECONDS
            self._notes.exchange()
            if self._tell and self._running:
                self._tell(str(self))
        return not self._running

    def __str__(self) -> str:
        return (
            f"verifying {self._folder}: {self._done:,} of {self._count:,} shards, {self.read_bytes / 1e9:,.1f} GB read"
        )

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                shard = self._left.popleft()
            except IndexError:
                return
            if self._is_again or not self._is_known(shard):  # another machine may have noted it since
                self._verify(shard)
            with self._lock:
                self._done += 1

    def _is_known(self, shard: dict[str, Any]) -> bool:
        try:
            status = (self._folder / shard["file"]).stat()
        except FileNotFoundError:
            return False
        return self._notes.knows(shard["file"], _stamp(shard["sha256"], status))

    def _verify(self, shard: dict[str, Any]) -> None:
        path, begun_ns = self._folder / shard["file"], time.time_ns()
        try:
            with path.open("rb", buffering=0) as file:
                before = os.fstat(file.fileno())
                found = self._hash(file)
                if found is None:
                    return
                if found != shard["sha256"]:
                    raise UserError(f"{path}: SHA-256 is {found}, the index says {shard['sha256']}; {_HINT}")
                stamp = _stamp(found, before)
                is_old = max(stamp.modified_ns, stamp.changed_ns) < begun_ns - _RESOLUTION_NS
                if is_old and stamp == _stamp(found, os.fstat(file.fileno())) and _is_on_disk(file):
                    self._notes.add(shard["file"], stamp)
        except FileNotFoundError:
            raise UserError(f"{path}: is not there, though the index names it; {_HINT}") from None

    def _hash(self, file: FileIO) -> str | None:
        """Return the SHA-256 of a file, None if it is to stop before the end. Hashing lets other threads run."""
        digest, buffer = hashlib.sha256(), bytearray(_CHUNK_BYTES)
        view = memoryview(buffer)
        while size := file.readinto(buffer):
            if self._stop.is_set():
                return None
            digest.update(view[:size])
            with self._lock:
                self.read_bytes += size
        return digest.hexdigest()


def verify_shards(
    folder: Path,
    splits: Iterable[str] = SPLITS,
    *,
    again: bool = False,
    tell: Callable[[str], None] | None = None,
) -> int:
    """Verify the shards of `splits` and return how many bytes were read.

    Raises `UserError` that gives both hashes if the bytes of a shard are not the index's.
    """
    with Verification(folder, splits, again=again, tell=tell) as verification:
        while not verification.wait(1.0):
            pass
        return verification.read_bytes


class Notes:
    """Which shards were verified: in a file beside the folder, that several processes and machines may add to.

    Only a note that says exactly what the file system says now counts, so a damaged or old one costs a reading and no more.
    """

    def __init__(self, folder: Path, names: set[str]) -> None:
        self._path, self._names = folder.parent / f".{folder.name}.verified", names
        self._known, self._new, self._lock = self._read(), dict[str, Stamp](), threading.Lock()
        self._is_writable = True

    def knows(self, name: str, stamp: Stamp) -> bool:
        """Whether a shard was verified when the file system said this of it."""
        return self._known.get(name) == stamp

    def add(self, name: str, stamp: Stamp) -> None:
        """Note a verified shard; `exchange` writes it down."""
        with self._lock:
            self._new[name] = stamp

    def exchange(self) -> None:
        """Read what others have noted, and add what is new here."""
        with self._lock:
            new, self._new = self._new, {}
        self._known = self._read() | self._known | new
        if not new or not self._is_writable:
            return
        try:
            with _locked(self._path.with_name(f"{self._path.name}.lock")):
                self._known = self._read() | self._known
                write_json(self._path, {"format": _FORMAT, "shards": self._known})
        except OSError as error:
            self._is_writable = False
            _log.warning(
                "%s: what was verified cannot be noted (%s); each start will read all shards",
                self._path,
                error.strerror,
            )

    def _read(self) -> dict[str, Stamp]:
        try:
            value = json.loads(self._path.read_bytes())
            if value["format"] != _FORMAT:
                return {}
            return {name: Stamp(*stamp) for name, stamp in value["shards"].items() if name in self._names}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}


def _stamp(sha256: str, status: os.stat_result) -> Stamp:
    return Stamp(sha256, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _is_on_disk(file: FileIO) -> bool:
    """Bring a file's bytes to the disk: else what is noted may be untrue after a power cut. False if that cannot be."""
    try:
        os.fsync(file.fileno())
    except OSError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time in; where the file system has no locks, all: then a note may be lost."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            _log.debug("%s: no locks here (%s)", path, error)
        yield
