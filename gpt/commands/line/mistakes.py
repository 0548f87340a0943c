"""What the command line tells a user who mistyped: one line with what is wrong, what was meant perhaps, and where it is written.

Click finds the mistakes; these are its words in our style. Secrets in what was typed are hidden by who prints it.
"""

from collections.abc import Iterable

import click

# What people who know other tools type first.
_MEANT = {
    "chat": "generate --interactive", "create": "init", "download": "fetch", "eval": "evaluate", "help": "--help", "info": "doctor",
    "list": "models", "ls": "models", "new": "init", "repro": "reproduce", "sample": "generate", "talk": "generate --interactive",
    "test": "evaluate", "train": "pretrain", "version": "--version",
}  # fmt: skip


def explain(error: click.UsageError) -> str:
    """Return the one line for a mistake that click found."""
    context = error.ctx
    where = context.command_path if context else "gpt"
    match error:
        case click.NoSuchOption():
            return _explain_unknown_option(error, where)
        case click.MissingParameter():
            name = _name(error.param, error.ctx)
            return f"{name} is missing{_example(error.ctx)}; `{where} --help` says more"
        case click.BadParameter():
            return f"{_name(error.param, error.ctx)}: {error.message}"
        case click.BadOptionUsage():
            option = _options(error.ctx).get(error.option_name)
            if option is None or option.is_flag:
                return f"{error.option_name}: takes no value; `{where} --help` says more"
            return (
                f"{error.option_name}: needs a value ({option.metavar or option.type.name}); `{where} --help` says more"
            )
        case _:
            return error.message


def explain_unknown_command(group: click.Group, context: click.Context, typed: str) -> str:
    """Say that a group has no such command, and which one was meant perhaps: here or elsewhere in `gpt`."""
    root = context.find_root()
    ways = _commands_of(root.command, root.command_path)
    path = context.command_path
    near = meant(typed, group.commands)
    if (
        typed in _MEANT
        and context.parent is None
        and _MEANT[typed].split()[0] in ("--help", "--version", *ways.values())
    ):
        near = [_MEANT[typed]]
    elif elsewhere := [way for way, name in ways.items() if name == typed]:
        return f"no command {typed!r} in `{path}`; did you mean `{elsewhere[0]}`?"
    guess = " or ".join(f"`{path} {name}`" for name in near)
    return f"no command {typed!r}; {f'did you mean {guess}? ' if guess else ''}`{path} --help` lists all"


def explain_surplus(context: click.Context, surplus: list[str]) -> str:
    """Say that a command got more arguments than it takes."""
    taken = _arguments(context)
    most = {0: "no argument", 1: "one argument"}.get(len(taken), f"{len(taken)} arguments")
    shown = ", ".join(map(repr, surplus))
    quotes = "; quote what holds spaces" if taken else ""
    path = context.command_path
    return f"`{path}` takes {most}, and {shown} is too much{quotes}; `{path} --help` says more"


def meant(typed: str, names: Iterable[str]) -> list[str]:
    """Return up to two names that were meant perhaps: those that begin so, else those that look alike."""
    from difflib import get_close_matches  # for who mistyped, not for each start

    bare = {name.lstrip("-"): name for name in names}
    typed = typed.lstrip("-")
    if len(typed) > 1 and (begun := [name for word, name in bare.items() if word.startswith(typed)]):
        return begun[:2]
    return [bare[word] for word in get_close_matches(typed, bare, n=2, cutoff=0.7)]


def _explain_unknown_option(error: click.NoSuchOption, where: str) -> str:
    typed = error.option_name
    if near := meant(typed, _options(error.ctx)):
        return f"{typed}: no option of `{where}`; did you mean {' or '.join(near)}?"
    arguments = [name for name in _arguments(error.ctx) if not typed.startswith("--")]
    dashes = f"; a {arguments[0]} that begins with - follows --" if arguments else ""
    return f"{typed}: no option of `{where}`{dashes}; `{where} --help` lists them"


def _options(context: click.Context | None) -> dict[str, click.Option]:
    """Return a command's options by each of their names."""
    parameters = context.command.get_params(context) if context else []
    return {name: option for option in parameters if isinstance(option, click.Option) for name in option.opts}


def _arguments(context: click.Context | None) -> list[str]:
    """Return the names of a command's arguments."""
    parameters = context.command.params if context else []
    return [_name(parameter, context) for parameter in parameters if isinstance(parameter, click.Argument)]


def _name(parameter: click.Parameter | None, context: click.Context | None) -> str:
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.human_readable_name.rstrip(".") if parameter else context.command_path if context else "gpt"


def _example(context: click.Context | None) -> str:
    examples = getattr(context.command, "examples", ()) if context else ()
    return f", as in: {examples[0].partition('  #')[0]}" if examples else ""


def _commands_of(command: click.Command, path: str) -> dict[str, str]:
    """Return each command's way to type it, and its name."""
    found = {}
    for name, member in getattr(command, "commands", {}).items():
        found[f"{path} {name}"] = name
        found |= _commands_of(member, f"{path} {name}")
    return found
