"""A terminal for tests: a real pseudo-terminal that a process runs in, and what its screen shows of the bytes that came."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_SILENCE_SECONDS = 2.0
_CONTROL = re.compile(r"\x1b\[(?P<numbers>[?\d;]*)(?P<letter>[A-Za-z])|(?P<one>[\r\n\b])|(?P<text>[^\x1b\r\n\b]+)")


def run_in_terminal(
    command: Sequence[str],
    *,
    environment: dict[str, str],
    folder: Path,
    columns: int = 100,
    lines: int = 30,
    seconds: float = 240.0,
    answer: Callable[[str, int, int], None] | None = None,
) -> tuple[int, str]:
    """Run a command with a terminal of its own; return its exit code, as a shell gives it, and all that it wrote there.

    `answer` is called with what was written so far, the terminal to type into, and the number of the process: whenever
    something was written, and after each few seconds of silence. After so many seconds it is killed, and fails.
    """
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover
        os.chdir(folder)
        # As in a terminal: who runs the tests in the background of a shell ignores it, and so would the command.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(command[0], list(command), environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    written = b""
    try:
        deadline = time.monotonic() + seconds
        while (chunk := _read(terminal)) != b"":
            written += chunk or b""
            assert time.monotonic() < deadline, f"it still runs: {written[-400:]!r}"
            if answer:
                answer(written.decode("utf-8", "replace"), terminal, process)
    except BaseException:
        os.kill(process, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
        _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    return (code if code >= 0 else 128 - code), written.decode("utf-8", "replace")


def screen(written: str) -> list[str]:
    """Return the lines that a terminal of any height shows of what was written; an unknown control fails."""
    shown, row, column = [""], 0, 0
    position = 0
    while position < len(written):
        found = _CONTROL.match(written, position)
        assert found, f"unknown control: {written[position : position + 12]!r}"
        position = found.end()
        if text := found["text"]:
            line = shown[row].ljust(column)
            shown[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
        elif found["one"] == "\r":
            column = 0
        elif found["one"] == "\b":
            column -= 1
        elif found["one"] == "\n":
            row, column = row + 1, column
            shown += [""] * (row + 1 - len(shown))
        else:
            match found["letter"]:
                case "A":
                    row -= int(found["numbers"] or 1)
                    assert row >= 0, "above the top"
                case "K":
                    shown[row] = "" if found["numbers"] == "2" else shown[row][:column]
                case "m" | "h" | "l":
                    pass
                case other:
                    raise AssertionError(f"unknown control: {other!r}")
    return [line.rstrip() for line in shown]


def _read(terminal: int) -> bytes | None:
    """Return what was written, None if that is nothing for a few seconds, b"" once the other end is closed."""
    ready, _, _ = select.select([terminal], [], [], _SILENCE_SECONDS)
    if not ready:
        return None
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so that the other end is closed
        return b""
