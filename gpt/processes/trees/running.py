"""Run a command of which no process is left when it has ended, is stopped, or we are killed.

Between us and the command stands gpt/processes/trees/supervisor.py, which keeps that promise and says by which means. Here are its
caller's side and the command's output.
"""

import codecs
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt.secrets.hiding import redact

GRACE_SECONDS = 30.0  # a trainer saves a checkpoint in it; Prefect's worker waits as long

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_CHUNK_BYTES = 1 << 16
_LINE_CHARACTERS = 1 << 16  # a longer line is passed on in pieces
_PROGRESS_SECONDS = 5.0
# As in gpt/processes/signals.py: one stop is told by whoever stops the tree, and by Prefect's worker, which stops itself.
_SAME_STOP_SECONDS = 2.0
_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")  # a final \r may be the first half of \r\n


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None],
    timeout_seconds: float | None = None,
    grace_seconds: float = GRACE_SECONDS,
    held: Sequence[int] = (),
) -> int:
    """Run a command to its end and return its exit code (128 + n if signal n ended it, 127 if it could not start).

    `held` are descriptors of locks that stay held until the tree has ended, also if we are killed.

    `on_line` gets each line of its output and errors as it arrives; it is called in this thread. When anything is
    raised here (an interrupt, a cancellation, the timeout's `TimeoutError`), the command's whole tree is stopped first.
    """
    lines = Lines(without_secrets(on_line))
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    process = _start(command, cwd, env, grace_seconds, subprocess.PIPE, held)
    try:
        for chunk in _chunks(process, deadline):
            lines.feed(chunk)
        lines.close()
        return _wait(process)
    except TimeoutError:
        _stop(process, lines)
        raise TimeoutError(f"{' '.join(command)}: not finished after {timeout_seconds:g} seconds; stopped") from None
    except BaseException:
        _stop(process, lines)
        raise
    finally:
        _close(process)


@contextmanager
def started(
    command: Sequence[str],
    *,
    cwd: Path,
    output: int,
    env: Mapping[str, str] | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a command running, its output going to a file descriptor, and stop its tree at the end of the block."""
    process = _start(command, cwd, env, grace_seconds, output)
    try:
        yield process
    finally:
        _stop(process, None)
        _close(process)


def without_secrets(on_line: Callable[[str], None]) -> Callable[[str], None]:
    """Return what passes lines on with `***` in the place of secrets; of a private key, which has many lines, its first."""
    in_key = False

    def pass_on(line: str) -> None:
        nonlocal in_key
        if not in_key:
            on_line(redact(line))
        begun, ended = line.rfind("-----BEGIN "), line.rfind("-----END ")
        in_key = "PRIVATE KEY" in line if begun > ended else in_key and ended == -1

    return pass_on


class Lines:
    """Turns bytes, as they arrive, into lines of text. Of a progress bar, which ends lines with `\\r`, one in 5 s is kept."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._next_progress = 0.0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; pass on the lines that they complete."""
        self._pending += self._decoder.decode(chunk)
        position = 0
        for end in _LINE_END.finditer(self._pending):
            self._pass_on(self._pending[position : end.start()], redrawn=end.group() == "\r")
            position = end.end()
        self._pending = self._pending[position:]
        if len(self._pending) > _LINE_CHARACTERS:
            # Between two words, if there are any: a secret that is cut in half is not known for one.
            end = self._pending.rfind(" ") + 1 or len(self._pending)
            self._on_line(self._pending[:end])
            self._pending = self._pending[end:]

    def close(self) -> None:
        """Pass on a last line that has no end."""
        rest = (self._pending + self._decoder.decode(b"", final=True)).rstrip("\r")
        self._pending = ""
        if rest:
            self._on_line(rest)

    def _pass_on(self, line: str, redrawn: bool) -> None:
        if not redrawn:
            self._on_line(line)
        elif line.strip() and time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + _PROGRESS_SECONDS
            self._on_line(line.rstrip())


def _start(
    command: Sequence[str],
    cwd: Path,
    env: Mapping[str, str] | None,
    grace_seconds: float,
    output: int,
    held: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    # Whatever the locale: `Lines` reads UTF-8, and no character may end a command.
    env = {**(os.environ if env is None else env), "PYTHONIOENCODING": "utf-8:backslashreplace"}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_SUPERVISOR), str(grace_seconds), *command],
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        bufsize=0,
        pass_fds=held,
        start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on
    )


def _chunks(process: subprocess.Popen[bytes], deadline: float | None) -> Iterator[bytes]:
    """Yield output until its end; raise `TimeoutError` at the deadline (of `time.monotonic`)."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            # Wake once a second: an exception that Prefect sends to a thread arrives between Python's instructions.
            wait_seconds = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if wait_seconds <= 0:
                raise TimeoutError
            if selector.select(wait_seconds):
                chunk = os.read(process.stdout.fileno(), _CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk
            elif process.poll() is not None:
                return  # where orphans cannot be adopted, one may still hold the pipe


def _stop(process: subprocess.Popen[bytes], lines: Lines | None) -> None:
    """Stop the tree with its grace, passing on what it still says; interrupted once more, kill it at once."""
    began = time.monotonic()
    _tell(process, b"t")
    while True:
        try:
            _wait_for_rest(process, lines)
            return
        except BaseException:
            if time.monotonic() - began > _SAME_STOP_SECONDS:
                _tell(process, b"k")
                _wait(process)
                raise


def _wait_for_rest(process: subprocess.Popen[bytes], lines: Lines | None) -> None:
    if lines is not None:
        with suppress(Exception):  # whoever listens may be what failed
            for chunk in _chunks(process, None):
                lines.feed(chunk)
            lines.close()
        for _ in _chunks(process, None):
            pass
    _wait(process)


def _tell(process: subprocess.Popen[bytes], order: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended by itself
        process.stdin.write(order)


def _wait(process: subprocess.Popen[bytes]) -> int:
    code = process.wait()
    if code >= 0:
        return code
    # Somebody killed the supervisor itself. What is left of its session, nobody else will stop.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return 128 - code


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
