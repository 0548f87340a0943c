"""Who works in this workspace, one at a time: flows, by locks of the kernel's, and DVC, by a file.

A flow's process holds a lock with the number of its run as long as it lives, and the workspace's while it works. DVC notes the
paths that its processes work on, and refuses those of another: the flow waits instead, and clears away what killed processes leave
in that file.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import psutil

from gpt.errors import UserError
from gpt.locks import holder, is_locked, locked
from gpt.maintenance.workspace import RUNS, WORKSPACE, clear_stale, living_holders

_POLL_SECONDS = 0.5


def living(run: str) -> AbstractContextManager[None]:
    """Hold the lock of a flow run, by which others know that its process lives."""
    return locked(_path(run), 0.0, lambda who: f"flow run {run} has a process already: {who}")


@contextmanager
def alone(tell: Callable[[str], object], deadline: float | None = None) -> Iterator[None]:
    """Hold the workspace; `tell` which flow has it, and wait for that one's end.

    Raises `TimeoutError` at a deadline of `time.time`.
    """
    if is_locked(WORKSPACE):
        tell(f"waits for the flow of {holder(WORKSPACE)}, which works in this folder")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(WORKSPACE, math.inf if deadline is None else deadline - time.time(), str))
        except UserError as who:
            raise TimeoutError(f"waited for the flow of {who}") from None
        yield


def is_busy() -> bool:
    """Whether a flow works in this workspace."""
    return is_locked(WORKSPACE)


def ran_here(run: str) -> bool:
    """Whether a flow run has been started in this workspace."""
    return _path(run).exists()


def is_running(run: str) -> bool:
    """Whether the process of a flow run lives, in this workspace."""
    return is_locked(_path(run))


def _path(run: str) -> Path:
    return RUNS / f"{run}.lock"


def wait_for_others(tell: Callable[[str], object], deadline: float | None = None) -> None:
    """Wait until no other DVC process works here; `tell` once of each, with its pid and since when it runs.

    Raises `TimeoutError` at a deadline of `time.time`.
    """
    told: set[int] = set()
    while others := _others():
        for process in others:
            if process.pid not in told:
                told.add(process.pid)
                tell(f"waits for {_describe(process)}, which works in this folder")
        if deadline is not None and time.time() > deadline:
            raise TimeoutError(f"waited for {_describe(others[0])}")
        time.sleep(_POLL_SECONDS)


def _others() -> list[psutil.Process]:
    """Return the living DVC processes that hold paths. A file that nobody living holds, or that is cut short, is removed."""
    clear_stale()
    return living_holders()


def _describe(process: psutil.Process) -> str:
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
        return f"process {process.pid} (`{' '.join(process.cmdline()[-4:])}`, since {since})"
    except psutil.Error:
        return f"process {process.pid}"
