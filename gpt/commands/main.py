"""The `gpt` command: its parser, its exit codes and how an error is told. Its commands are in a file per group.

A group's `add_commands` adds them. They import what is heavy when they run, so that `gpt --help` answers at once.
Exit codes: 0 done, 1 failed, 2 the user must change something, 128 + n stopped by signal n with the state saved.
"""

import argparse
import errno
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from gpt.commands import data, doctor, models, training
from gpt.errors import Interrupted, UserError
from gpt.limits import open_files
from gpt.memory import told_if_out_of_memory
from gpt.secrets import guard_output, redact

# What the system says when a path or a disk cannot take what we write: the user's to change, no bug of ours.
_USERS_OS_ERRORS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EFBIG,
}  # fmt: skip
# For commands that have no better: their needs follow from the model and the data.
_MEMORY_ADVICE = (
    "close other programs, or compute elsewhere (CUDA_VISIBLE_DEVICES='' takes the processor instead of a GPU)"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command, say what went wrong, and return its exit code."""
    try:
        return run(arguments)
    except UserError as error:
        for line in redact(str(error)).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except Interrupted as error:
        if os.environ.get("RANK", "0") == "0":
            print(redact(str(error)), file=sys.stderr)
        return 128 + error.signum
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `gpt generate … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. What only the user can change is raised as `UserError`."""
    guard_output()
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        with told_if_out_of_memory(_MEMORY_ADVICE):
            return options.command(options)
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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands: `options.command` is the function to call."""
    parser = _Parser(
        prog="gpt",
        description="Pretrain your own GPT from params.yaml. Works on the project in the current folder.",
        epilog="Exit codes: 0 done, 1 failed, 2 you must change something.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in (data, training, models, doctor):
        group.add_commands(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Repeats no secret of a command that it does not understand; commands get a parser of the same class."""

    def error(self, message: str) -> NoReturn:
        super().error(redact(message))


if __name__ == "__main__":
    sys.exit(main())
