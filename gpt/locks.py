"""Files that one process at a time holds, and that say who. The kernel lets go of them when the holder dies, however it dies."""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from gpt.errors import UserError

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 0.001


def try_lock(path: Path, process: str | None = None) -> TextIO | None:
    """Take the lock file `path` and write down who we are; None if another holds it. Closing what it returns gives it back.

    Whoever only looks (`is_locked`) holds it for a moment: that is waited for. `process` names the process to stop, as its id
    does, if that is not this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        lock = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_looked_at = _can_be_looked_at(lock)
            lock.close()
            if not is_looked_at:
                return None
            time.sleep(_LOOK_SECONDS)
            continue
        except BaseException:
            lock.close()
            raise
        if is_still(lock.fileno(), path):
            lock.truncate(0)
            lock.write(
                f"process {process or os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            )
            lock.flush()
            return lock
        lock.close()  # its last holder removed the file in the meantime


def holder(path: Path) -> str:
    """Return who holds a lock file, as in `process 4711 on host, since 2026-11-26 09:15:00`."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file now; it need not exist."""
    try:
        with path.open(encoding="utf-8") as lock:
            return not _can_be_looked_at(lock)
    except FileNotFoundError:
        return False


@contextmanager
def locked(
    path: Path, wait_seconds: float, busy: Callable[[str], str], is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold a lock file, waiting for it; raise `UserError(busy(who holds it))` if that takes longer than `wait_seconds`.

    Or if `is_stopped` says so: of a thread, whose waiting no signal ends.
    """
    deadline = time.monotonic() + wait_seconds
    while (lock := try_lock(path)) is None:
        if time.monotonic() > deadline or is_stopped():
            raise UserError(busy(holder(path)))
        time.sleep(_POLL_SECONDS)
    with lock:
        yield


def is_still(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that lies at `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _can_be_looked_at(lock: TextIO) -> bool:
    """Whether no process holds an open lock file, others that look aside."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
