"""Run a command for a caller, and stop everything that it has started when the caller says so or is gone.

Promise: however the caller ends, also by SIGKILL, no process below it is left: SIGTERM, GRACE_SECONDS to save, SIGKILL.
Means: standard input is a pipe that only the caller holds, so its end is the caller's; PR_SET_CHILD_SUBREAPER makes us the
parent of processes whose own parent has ended, also in a session of their own; on other systems than Linux these are missed.
Orders in the pipe: `t` stops the tree, `k` ends the grace. Run as `python -I -S supervisor.py GRACE_SECONDS COMMAND...`.
Every stage pays for this start (about 20 ms), so only a few modules of the standard library are imported.
There are two such mechanisms. This one looks down, from outside a run; gpt/processes/owner.py looks up, from inside.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POLL_SECONDS = 0.1  # between looks at a tree that is stopping
_CALLER = 0  # standard input


def main(grace_seconds: float, command: list[str]) -> int:
    """Run the command to its end and return its exit code, 128 + n if signal n ended it, 127 if it could not start."""
    adopt_orphans()
    wakeups, wakeups_write = os.pipe()
    os.set_blocking(wakeups, False)
    os.set_blocking(wakeups_write, False)
    signal.set_wakeup_fd(wakeups_write)
    for number in (*_STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the byte in the pipe is the news
    try:
        child = _spawn(command)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", flush=True)
        return 127

    exit_code = 0
    listened = [_CALLER, wakeups]
    deadline: float | None = None  # set once the tree is being stopped
    signalled: set[int] = set()
    while True:
        ended, alone = _reap(child)
        exit_code = exit_code if ended is None else ended
        if alone:
            return exit_code
        if ended is not None and deadline is None:
            deadline = time.monotonic() + grace_seconds  # what the command left running goes as well
        if deadline is not None:
            _stop(signalled, kill=time.monotonic() >= deadline)
        ready, _, _ = select.select(listened, [], [], None if deadline is None else _POLL_SECONDS)
        news = os.read(wakeups, 4096) if wakeups in ready else b""
        told = os.read(_CALLER, 64) if _CALLER in ready else None
        if told == b"":
            listened = [wakeups]
        if told is not None and b"k" in told:
            deadline = 0.0
        elif deadline is None and (told is not None or any(number in news for number in _STOP_SIGNALS)):
            deadline = time.monotonic() + grace_seconds


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, also of those in a session of their own (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Let the kernel send us, and the program that we become, a signal when our parent ends (Linux only)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel knew
            os.kill(os.getpid(), number)


def descendants() -> list[tuple[int, int]]:
    """Return (pid, parent's pid) of every living process below this one, parents first."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    tree = [(pid, os.getpid()) for pid in children.get(os.getpid(), [])]
    for pid, _ in tree:  # grows while it is read
        tree += [(child, pid) for child in children.get(pid, [])]
    return tree


def _spawn(command: list[str]) -> int:
    """Start the command with every signal back at its default and nothing to read."""
    return os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def _reap(child: int) -> tuple[int | None, bool]:
    """Collect what has ended; return the exit code of `child` if it is among it, and whether no process is left."""
    exit_code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return exit_code, True
        if pid == 0:
            return exit_code, False
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            exit_code = code if code >= 0 else 128 - code


def _stop(signalled: set[int], kill: bool) -> None:
    """Signal the tree, parents first: a launcher must know of the stop before its workers end, or it starts new ones.

    SIGTERM goes once to each process of the first look. Of later ones only orphans get it: a process that is stopping
    may well need a helper to save its state, but one whose parent has gone was started in the moment of the stop.
    """
    first = not signalled
    for pid, parent in descendants():
        if kill or (pid not in signalled and (first or parent == os.getpid())):
            signalled.add(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)


def _processes() -> list[tuple[int, int]]:
    """Return (pid, parent's pid) of every process that is not a zombie."""
    if sys.platform != "linux":
        with os.popen("ps -axo pid=,ppid=") as listing:
            return [(int(pid), int(parent)) for pid, parent in (line.split() for line in listing)]
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 (pathlib would double the time to start)
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except OSError:
                continue  # it ended while we looked
            if state != b"Z":
                found.append((int(name), int(parent)))
    return found


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
