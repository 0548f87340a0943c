"""Who works in this workspace, one at a time: flows, by locks of the kernel's, and DVC, by a file.

A flow's process holds a lock with the number of its run as long as it lives, and the workspace's while it works. DVC notes the
paths that its processes work on, and refuses those of another: the flow waits instead, and clears away what killed processes leave
in that file.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from gpt.locks import holder, is_locked, locked

RUNS = Path(".cache/runs")
"Locks by the numbers of flow runs: a file that is not locked is that of a run whose process has gone."

_WORKSPACE = RUNS / "workspace.lock"
_RWLOCK = Path(".dvc/tmp/rwlock")
_WRITING_SECONDS = 1.0
_POLL_SECONDS = 0.5
_CLOCK_SECONDS = 2.0  # between the system's start time of a process and a file's


def living(run: str) -> AbstractContextManager[None]:
    """Hold the lock of a flow run, by which others know that its process lives."""
    return locked(_path(run), 0.0, lambda who: f"flow run {run} has a process already: {who}")


@contextmanager
def alone(tell: Callable[[str], object]) -> Iterator[None]:
    """Hold the workspace; `tell` which flow has it, and wait for that one's end."""
    if is_locked(_WORKSPACE):
        tell(f"waits for the flow of {holder(_WORKSPACE)}, which works in this folder")
    with locked(_WORKSPACE, math.inf, str):
        yield


def is_busy() -> bool:
    """Whether a flow works in this workspace."""
    return is_locked(_WORKSPACE)


def ran_here(run: str) -> bool:
    """Whether a flow run has been started in this workspace."""
    return _path(run).exists()


def is_running(run: str) -> bool:
    """Whether the process of a flow run lives, in this workspace."""
    return is_locked(_path(run))


def _path(run: str) -> Path:
    return RUNS / f"{run}.lock"


def wait_for_others(tell: Callable[[str], object]) -> None:
    """Wait until no other DVC process works here; `tell` once of each, with its pid and since when it runs."""
    told: set[int] = set()
    while others := _others():
        for process in others:
            if process.pid not in told:
                told.add(process.pid)
                tell(f"waits for {_describe(process)}, which works in this folder")
        time.sleep(_POLL_SECONDS)


def _others() -> list[psutil.Process]:
    """Return the living DVC processes that hold paths. A file that nobody living holds, or that is cut short, is removed."""
    pids = _read_pids()
    if pids is None:
        time.sleep(_WRITING_SECONDS)  # DVC does not write it atomically: another may be at it
        pids = _read_pids()
        if pids is None:
            _RWLOCK.unlink(missing_ok=True)
    living = [process for pid in pids or () if (process := _holder(pid))]
    if pids and not living:
        _RWLOCK.unlink(missing_ok=True)  # DVC takes any process of the same pid for the holder
    return living


def _read_pids() -> set[int] | None:
    """Return the pids in DVC's list of locked paths, None if a kill has cut it short: DVC then refuses to run."""
    try:
        lock = json.loads(_RWLOCK.read_text(encoding="utf-8"))
        readers = [reader for some in lock.get("read", {}).values() for reader in some]
        return {int(holder["pid"]) for holder in [*readers, *lock.get("write", {}).values()]}
    except FileNotFoundError:
        return set()
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def _holder(pid: int) -> psutil.Process | None:
    """Return the process of a pid, None if it has ended, even if another has got its pid since."""
    try:
        process = psutil.Process(pid)
        is_later = process.create_time() > _RWLOCK.stat().st_mtime + _CLOCK_SECONDS
        return None if is_later or process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.NoSuchProcess, FileNotFoundError):
        return None


def _describe(process: psutil.Process) -> str:
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
        return f"process {process.pid} (`{' '.join(process.cmdline()[-4:])}`, since {since})"
    except psutil.Error:
        return f"process {process.pid}"
