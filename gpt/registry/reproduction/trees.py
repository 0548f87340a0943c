"""DVC and what it starts, as one: run in a session of its own, stopped whole, and ended if whoever ran it was killed."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import psutil

from gpt.secrets.hiding import redact

FOLDER = "GPT_REPRODUCTION"
"In the environment of what runs for a reproduction: its folder."
_GRACE_SECONDS = 30.0  # a trainer saves a checkpoint in it
_POLL_SECONDS = 0.1


def run_tree(
    command: Sequence[str], folder: Path, lock: TextIO, variables: dict[str, str], on_line: Callable[[str], bool]
) -> tuple[int, bool]:
    """Run a command in a folder, in a session of its own; return its exit code, and whether `on_line` had it stopped.

    It inherits the lock: while it lives nobody else works there, even if we were killed.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock.fileno(),),
    )
    assert process.stdout is not None
    try:
        for line in _lines(process.stdout):
            if not on_line(redact(line)):
                _stop(process)
                return 0, True
        return process.wait(), False
    except BaseException:
        _stop(process)
        raise
    finally:
        process.stdout.close()


def _lines(output: Iterable[bytes]) -> Iterator[str]:
    for line in output:
        if text := line.decode("utf-8", "replace").rsplit("\r", 1)[-1].strip("\n"):
            yield text


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all of its session: SIGTERM, time to save, SIGKILL."""
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + seconds
        while (process.poll() is None or _is_alive(process.pid)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if process.poll() is not None and not _is_alive(process.pid):
            return


def _is_alive(group: int) -> bool:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def is_gone(holder: str) -> bool:
    """Whether a process of this machine has ended that a lock file names: `process 4711 on host, since …`."""
    said = re.match(r"process (\d+) on (.+), since ", holder)
    return said is not None and said[2] == socket.gethostname() and not psutil.pid_exists(int(said[1]))


def end_left_behind(folder: Path) -> None:
    """End what an attempt in a folder has started and, as it was killed itself, has left running."""
    found = list(_started_for(folder))
    for process in found:
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(found, timeout=_GRACE_SECONDS)
    left = list(_started_for(folder))
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_GRACE_SECONDS)


def _started_for(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(FOLDER) == str(folder):
                yield process
