"""Who works in this folder: flows, by locks of the kernel's, and DVC, by a file that its processes may leave behind.

DVC notes in `.dvc/tmp/rwlock` the paths that its processes work on, not in one piece, and takes any process of the same number for
the holder. So what a killed one has left is told apart here, by what the system knows of that process.
"""

import json
import time
from pathlib import Path

import psutil

RUNS = Path(".cache/runs")
"Locks by the numbers of flow runs: a file that is not locked is that of a run whose process has gone."
WORKSPACE = RUNS / "workspace.lock"
"Held by the flow that works in this folder."
RWLOCK = Path(".dvc/tmp/rwlock")

_WRITING_SECONDS = 1.0
_CLOCK_SECONDS = 2.0  # between the system's start time of a process and a file's


def living_holders(rwlock: Path = RWLOCK) -> list[psutil.Process]:
    """Return the living DVC processes that hold paths."""
    return [process for pid in _read(rwlock) or () if (process := _holder(pid, rwlock))]


def why_stale(rwlock: Path = RWLOCK) -> str | None:
    """Return why DVC's list of locked paths is one that killed processes left; None if it is not there, or somebody lives in it."""
    pids = _read(rwlock)
    if pids is None:
        return "cut short by a kill: DVC refuses to run"
    if pids and not any(_holder(pid, rwlock) for pid in pids):
        numbers = ", ".join(map(str, sorted(pids)))
        return f"held by process {numbers}, which has ended: DVC may take another of that number for it"
    return None


def clear_stale(rwlock: Path = RWLOCK) -> bool:
    """Remove the list that killed processes left; return whether there was one."""
    if why_stale(rwlock) is None:
        return False
    rwlock.unlink(missing_ok=True)
    return True


def _read(rwlock: Path) -> set[int] | None:
    """Return the pids in the list, None if a kill has cut it short."""
    pids = _parse(rwlock)
    if pids is None:
        time.sleep(_WRITING_SECONDS)  # another may be writing it
        pids = _parse(rwlock)
    return pids


def _parse(rwlock: Path) -> set[int] | None:
    try:
        lock = json.loads(rwlock.read_text(encoding="utf-8"))
        readers = [reader for some in lock.get("read", {}).values() for reader in some]
        return {int(holder["pid"]) for holder in [*readers, *lock.get("write", {}).values()]}
    except FileNotFoundError:
        return set()
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def _holder(pid: int, rwlock: Path) -> psutil.Process | None:
    """Return the process of a pid, None if it has ended, even if another has got its pid since."""
    try:
        process = psutil.Process(pid)
        is_later = process.create_time() > rwlock.stat().st_mtime + _CLOCK_SECONDS
        return None if is_later or process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.NoSuchProcess, FileNotFoundError):
        return None
