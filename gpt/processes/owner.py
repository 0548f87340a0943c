"""Who trains through this process: the launcher of a worker, DVC of a stage. When it ends, so do we: its death sends no signal."""

import os
import signal
import threading
import time

import psutil

# In a worker's environment, the process that started it and would start it again.
OWNER = "GPT_OWNER"
_LOOK_SECONDS = 0.5


def watch_owner() -> None:
    """Stop, as by SIGTERM, when our owner has ended, or has already; do nothing if there is none."""
    parents = psutil.Process().parents()
    if launcher := os.environ.get(OWNER):
        owner, is_orphan = next((parent for parent in parents if str(parent.pid) == launcher), None), True
    elif "DVC_STAGE" in os.environ:  # between DVC and us there may be a shell, or another machine
        owner = next((parent for parent in parents if _is_dvc(parent)), None)
        is_orphan = len(parents) < 2 or parents[0].name() == "systemd"
    else:
        return
    if owner:
        stop_with(owner)
    elif is_orphan:
        os.kill(os.getpid(), signal.SIGTERM)


def stop_with(owner: psutil.Process) -> None:
    """Send this process SIGTERM when `owner` has ended, so that nothing trains on for nobody."""

    def wait() -> None:
        while _is_alive(owner):
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="owner", daemon=True).start()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE  # ended, but its parent has not asked
    except psutil.NoSuchProcess:
        return False


def tell_owner_to_give_up() -> None:
    """Let the owner, if this is a worker of `run_workers`, end as after a user's error instead of starting us again."""
    _tell_owner(signal.SIGUSR1)


def tell_owner_to_stop() -> None:
    """Let it end as after SIGTERM: the signal that stopped all of us was sent to another process, or on another machine."""
    _tell_owner(signal.SIGUSR2)


def _tell_owner(signum: signal.Signals) -> None:
    if os.environ.get(OWNER) == str(os.getppid()):
        os.kill(os.getppid(), signum)


def _is_dvc(process: psutil.Process) -> bool:
    try:
        return any(part.rpartition("/")[2] == "dvc" for part in process.cmdline()[:4])
    except psutil.Error:
        return False
