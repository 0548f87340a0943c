"""The `gpt` command: its parser, its exit codes and how an error is told. Its commands are in a file per group.

A group's `add_commands` adds them. They import what is heavy when they run, so that `gpt --help` answers at once.
Exit codes: 0 done, 1 failed, 2 the user must change something, 128 + n stopped by signal n with the state saved.
"""

import argparse
import logging
import sys
import warnings
from typing import NoReturn

from gpt.commands import data, doctor, lineage, models, training, versions
from gpt.entry import begin, end_with, leave, users_errors
from gpt.memory import told_if_out_of_memory
from gpt.paths import ensure_user, enter_project
from gpt.secrets.hiding import redact

# For commands that have no better: their needs follow from the model and the data.
_MEMORY_ADVICE = (
    "close other programs, or compute elsewhere (CUDA_VISIBLE_DEVICES='' takes the processor instead of a GPU)"
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command, say what went wrong, and return its exit code."""
    return leave(end_with(lambda: run(arguments)))


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. What only the user can change is raised as `UserError`."""
    begin()
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    enter_project()  # after the arguments: paths in them are from where the user stands
    ensure_user()
    with users_errors(), told_if_out_of_memory(_MEMORY_ADVICE):
        return options.command(options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands: `options.command` is the function to call."""
    parser = _Parser(
        prog="gpt",
        description="Pretrain your own GPT from params.yaml. Works on the project that the current folder lies in.",
        epilog="Exit codes: 0 done, 1 failed, 2 you must change something.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in (data, training, models, versions, lineage, doctor):
        group.add_commands(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Repeats no secret of a command that it does not understand; commands get a parser of the same class."""

    def error(self, message: str) -> NoReturn:
        super().error(redact(message))


if __name__ == "__main__":
    sys.exit(main())
