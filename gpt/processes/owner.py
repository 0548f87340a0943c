"""A trainer stops when the process it trains for has ended: a worker with its launcher, a DVC stage with `dvc repro`.

Promise: however that process ends, also by SIGKILL, we get SIGTERM at once; training saves its state and ends.
Means: a pidfd (Linux 5.3 and later) or a kqueue (macOS, BSD): the system wakes a thread of ours at that death.
Not PR_SET_PDEATHSIG: it tells only of the parent, and of its thread, but between DVC and us there may be a shell.
Limits: a DVC on another machine (`srun` in a stage's command) is not seen. Errors go the same way up: see workers.py.
The other mechanism, flows/supervisor.py, looks down instead: it stops and reaps what a command has started.
"""

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

import psutil

from gpt.errors import Interrupted

# In a worker's environment: the process that started it and would start it again.
OWNER = "GPT_OWNER"

logger = logging.getLogger(__name__)


def watch_owner() -> None:
    """Get SIGTERM when our owner ends, or now if it has ended already; do nothing if there is none."""
    parents = psutil.Process().parents()
    if launcher := os.environ.get(OWNER):
        owner, is_orphan = next((parent for parent in parents if str(parent.pid) == launcher), None), True
    elif stage := os.environ.get("DVC_STAGE"):
        owner = next((parent for parent in parents if not _is_part_of(stage, parent)), None)
        is_orphan = owner is not None and _adopts_orphans(owner)
        owner = None if is_orphan else owner
    else:
        return
    if owner:
        stop_with(owner)
    elif is_orphan:
        os.kill(os.getpid(), signal.SIGTERM)


def stop_with(owner: psutil.Process) -> None:
    """Get SIGTERM when `owner` ends, so that nothing trains on for nobody."""
    try:
        wait_for_end = _end_of(owner.pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    except (OSError, AttributeError) as error:  # an old kernel, or a sandbox that forbids it
        logger.warning("cannot watch process %d (%s): if it is killed, stop this training yourself", owner.pid, error)
        return

    def wait() -> None:
        wait_for_end()
        os.kill(os.getpid(), signal.SIGTERM)

    if owner.is_running():
        threading.Thread(target=wait, name="owner", daemon=True).start()
    else:  # it ended before we could watch it, and another process may have got its number
        os.kill(os.getpid(), signal.SIGTERM)


def tell_owner(stopped: Interrupted) -> None:
    """Let the launcher know, if torch elastic is one, that all processes have stopped and are not to be started again.

    The signal may have been sent to another process, or on another machine: an exit code alone does not say that.
    """
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(stopped)


def _end_of(pid: int) -> Callable[[], object]:
    """Return a function that waits until a process ends; raise `ProcessLookupError` if there is none."""
    if sys.platform == "linux":
        waiter = select.poll()
        waiter.register(os.pidfd_open(pid), select.POLLIN)
        return waiter.poll
    queue = select.kqueue()
    queue.control([select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)], 0)
    return lambda: queue.control(None, 1)


def _is_part_of(stage: str, process: psutil.Process) -> bool:
    """Whether DVC started a process for the stage: it, and all below it, have the stage's name in their environment."""
    try:
        return process.environ().get("DVC_STAGE") == stage
    except psutil.Error:
        return False  # another user's, or it has ended: then so do we


def _adopts_orphans(process: psutil.Process) -> bool:
    """Whether a process is nobody's owner but the system's first, which DVC may only be as the command of a container."""
    if process.pid != 1 and process.name() != "systemd":
        return False
    try:
        return os.getsid(process.pid) != os.getsid(0)
    except PermissionError:  # some systems tell it within a session only
        return True
