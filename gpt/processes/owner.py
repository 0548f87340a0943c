"""A trainer stops when the process that it trains for has ended: a worker with its launcher, a stage with `dvc repro`.

Promise: however that process ends, also by SIGKILL, we get SIGTERM at once; training saves its state and ends.
Means: a pidfd (Linux 5.3 and later) or a kqueue (macOS, BSD) of that process, which wakes a thread of ours; nothing polls.
Why not PR_SET_PDEATHSIG: it is sent when the parent's thread ends, but a shell may stand between DVC and us.
Not seen: a DVC on another machine (`srun` in a stage's command).
There are two such mechanisms. This one looks up, from inside a run; gpt/processes/trees/supervisor.py looks down, from outside.
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
    """Get SIGTERM when the process `owner` ends, or now if it has ended."""
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
    """Whether a process is our parent only because ours has ended: init or systemd.

    As the command of a container DVC itself may be process 1, but then we are in its session.
    """
    if process.pid != 1 and process.name() != "systemd":
        return False
    try:
        return os.getsid(process.pid) != os.getsid(0)
    except PermissionError:  # some systems tell it within a session only
        return True
