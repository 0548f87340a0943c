"""What the groups of commands share: how a command is added, and the types of its arguments."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

from gpt import entry, paths

Command: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, command: Command, *, name: str | None = None) -> argparse.ArgumentParser:
    """Add a command under its function's name, its docstring as the help; return its parser, for its arguments."""
    name, text = name or command.__name__.replace("_", "-"), command.__doc__
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Add a command that has commands of its own: return what they are added to."""
    return commands.add_parser(name, help=text, description=text).add_subparsers(metavar="COMMAND", required=True)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, for `gpt.registry.versions.resolve_model`."""
    parser.add_argument(
        "--model",
        type=model,
        default=paths.BASE_MODEL,  # of the project; text would be taken for typed
        metavar="PATH|URI",
        help="a model folder, models:/NAME/VERSION or models:/NAME@ALIAS (default: %(default)s)",
    )


def at_least(kind: type, least: float, most: float | None = None) -> Callable[[str], float]:
    """Return an argument type for numbers from `least` to `most`."""

    def convert(text: str) -> float:
        value = kind(text)
        if not (least <= value < 2**63 and (most is None or value <= most)):
            limit = "" if most is None else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"must be {kind.__name__} of at least {least}{limit}, not {text}")
        return value

    convert.__name__ = kind.__name__  # argparse names it where the text is no number
    return convert


def model(text: str) -> str:
    """The argument type of a model: a URI as it is, a folder as `gpt.paths.from_here` says."""
    return entry.readable(text) if text.startswith(("models:", "@")) else str(paths.from_here(text))


def not_empty(text: str) -> str:
    """The argument type of a text that must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return entry.readable(text)
