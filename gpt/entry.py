"""What every entry point does first and last: `gpt`, `python -m flows.…` and `python -m infra.…`, their children too.

First: output that no locale can break, and servers of this machine that no proxy can hide. Last: an error told in one line,
and an exit code of ours: 0 done, 1 failed, 2 the user must change something, 128 + n stopped by signal n.
"""

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from gpt.addresses import spare_loopback
from gpt.errors import Interrupted, UserError
from gpt.limits import open_files
from gpt.secrets.hiding import guard_output, redact

# What the system says when a path or a disk cannot take what we write: the user's to change, no bug of ours.
_USERS_OS_ERRORS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EFBIG,
}  # fmt: skip
_LEGIBLE = "gpt.legible"
# Signs of our own output, for a terminal that has only ASCII. Any other character is shown by its number.
_PLAIN = str.maketrans({
    "✓": "ok", "✗": "!!", "·": "-", "│": "|", "…": "...", "×": "x", "–": "-", "—": "-", "→": "->", "⏎": "\\n",
    "�": "?", "’": "'", "‘": "'", "“": '"', "”": '"', "\N{NO-BREAK SPACE}": " ",
})  # fmt: skip


def begin() -> None:
    """Prepare this process for the locale, the proxies and the secrets of its environment; it may be called again."""
    codecs.register_error(_LEGIBLE, _legible)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_LEGIBLE)
    spare_loopback()
    guard_output()


def end_with(command: Callable[[], int]) -> int:
    """Run a command, say what went wrong, and return its exit code."""
    try:
        return _run(command)
    finally:
        try:
            _flush()
        except OSError:  # told already; the interpreter would try once more, and end with an exit code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave(exit_code: int) -> int:
    """Return the exit code for `sys.exit`; within a process group, which a failure does not leave, end this process at once.

    An interpreter that ended there could tear a thread of the group out of C++, which aborts: with more on stderr, and another exit
    code, than what was told. To leave the group first would let the others fail before they know why.
    """
    distributed = sys.modules.get("torch.distributed")
    if exit_code and distributed is not None and distributed.is_available() and distributed.is_initialized():
        end_at_once(exit_code)
    return exit_code


def end_at_once(exit_code: int) -> NoReturn:
    """End this process as it is, with its output written: threads in C++ end with it, where the interpreter would tear them out."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError, ValueError):  # its reader is gone, or it is closed
            stream.flush()
    os._exit(exit_code)


def _run(command: Callable[[], int]) -> int:
    try:
        with users_errors():
            exit_code = command()
            _flush()
        return exit_code
    except UserError as error:
        tell(str(error))
        return 2
    except Interrupted as error:
        if os.environ.get("RANK", "0") == "0":
            print(redact(str(error)), file=sys.stderr)
        return 128 + error.signum
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 0  # `gpt generate … | head` has seen enough


def tell(message: str) -> None:
    """Print an error without the secrets in it, each of its lines marked as one."""
    for line in redact(message).splitlines():
        print(f"error: {line}", file=sys.stderr)


@contextmanager
def users_errors() -> Iterator[None]:
    """Turn what the system says about a path or a disk into a `UserError` that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise UserError(
                f"too many open files: this process may have {open_files()}; `ulimit -n 4096` raises that"
            ) from error
        if "No usable temporary directory" in str(error):
            raise UserError(
                f"no temporary folder can be written ({_temporary_folders()}); set TMPDIR to one that can"
            ) from error
        if error.errno not in _USERS_OS_ERRORS:
            raise
        file = error.filename2 or error.filename or "a file"  # of a copy, what it goes to
        raise UserError(f"{file}: {error.strerror}; make it writable, or make room") from error


def _temporary_folders() -> str:
    """Name the places at which Python looks for a folder for temporary files, first those that variables name."""
    named = [f"{name} = {os.environ[name]}" for name in ("TMPDIR", "TEMP", "TMP") if name in os.environ]
    return ", ".join([*named, "/tmp", "/var/tmp", "/usr/tmp", str(Path.cwd())])


def readable(text: str) -> str:
    """Return an argument as the text that was typed: bytes that the locale does not know are read as UTF-8, else shown as �."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "replace")
    return text


def _legible(error: UnicodeError) -> tuple[str, int]:
    """Encode what an output cannot show; a byte of a name or an argument that is no text as `\\xff`, as shells do."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = []
    for character in error.object[error.start : error.end]:
        plain = character.translate(_PLAIN)
        if 0xDC80 <= ord(character) <= 0xDCFF:
            plain = f"\\x{ord(character) - 0xDC00:02x}"
        shown.append(plain.encode("ascii", "backslashreplace").decode())
    return "".join(shown), error.end


def _flush() -> None:
    if sys.stdout is not None:  # it may be closed
        try:
            sys.stdout.flush()
        except OSError as error:
            error.filename = "standard output"
            raise


def _reader_is_gone() -> bool:
    """Whether it is our output that broke, not a connection to a server."""
    if sys.stdout is None:
        return False
    looked = select.poll()
    looked.register(sys.stdout, 0)  # what has broken is always told
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in looked.poll(0))
