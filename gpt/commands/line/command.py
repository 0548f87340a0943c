"""How a command of `gpt` is made: `@command` over a function whose parameters are its arguments and whose docstring is its help.

    @command(examples=["gpt fetch", "gpt fetch sources  # no benchmarks"])
    @click.argument("what", required=False, type=OneOf("sources", "benchmarks"))
    def fetch(what: str | None) -> int:

A command returns its exit code. It runs in the project's folder; its arguments are read where the user stands, before that.
Whatever is heavy is imported inside the function: all commands are loaded to show one's help.
"""

import logging
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from gpt import __version__
from gpt.commands.line.mistakes import explain_surplus, explain_unknown_command
from gpt.entry import users_errors
from gpt.errors import UserError
from gpt.memory import told_if_out_of_memory
from gpt.paths import current_folder, ensure_user, enter_project

# For commands that have no better: their needs follow from the model and the data.
_MEMORY_ADVICE = (
    "close other programs, or compute elsewhere (CUDA_VISIBLE_DEVICES='' takes the processor instead of a GPU)"
)
_WIDTH = 100  # of help, on terminals that are as wide

logger = logging.getLogger(__name__)


def command(
    *, examples: Sequence[str], name: str | None = None, notes: str | None = None
) -> Callable[[Callable[..., int]], "Command"]:
    """Make a command of the function below, called like it; `examples` end its help, after what `notes` say."""

    def decorate(function: Callable[..., int]) -> "Command":
        options = list(reversed(getattr(function, "__click_params__", [])))
        return Command(
            name or function.__name__.replace("_", "-"),
            callback=function,
            params=options,
            help=function.__doc__,
            examples=examples,
            notes=notes,
        )

    return decorate


class _Helpful(click.Command):
    """What commands and groups have in common: help that any locale shows, `-v`, and mistakes that know where they were made."""

    def __init__(self, name: str, **attributes: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH}
        super().__init__(name, context_settings=settings, **attributes)
        self.params.append(_verbose_option())

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.help, option.callback = "show this and end", _show_help
        return option

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click leaves it out now and then
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text(self.epilog)


class Command(_Helpful):
    """A command with examples. Its function is called in the project's folder."""

    def __init__(self, name: str, *, examples: Sequence[str], notes: str | None = None, **attributes: Any) -> None:
        super().__init__(name, epilog=notes, **attributes)
        self.examples = tuple(examples)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the pieces of the first line of help; what may be left out stands in brackets, by whatever name it goes."""
        pieces = []
        for param in self.get_params(ctx):
            optional = isinstance(param, click.Argument) and not param.required
            pieces += [
                f"[{piece}]" if optional and not piece.startswith("[") else piece
                for piece in param.get_usage_pieces(ctx)
            ]
        return [self.options_metavar or "", *pieces]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True  # what is too much is told in our words
        surplus = super().parse_args(ctx, args)
        if surplus and not ctx.resilient_parsing:
            raise click.UsageError(explain_surplus(ctx, surplus), ctx)
        return surplus

    def invoke(self, ctx: click.Context) -> int:
        enter_project()  # after the arguments: paths in them are from where the user stands
        ensure_user()
        logger.info("%s in %s", ctx.command_path, current_folder())
        begun = time.perf_counter()
        try:
            with users_errors(), told_if_out_of_memory(_MEMORY_ADVICE):
                exit_code = super().invoke(ctx)
        except UserError:
            logger.debug("where the error comes from:", exc_info=True)
            raise
        logger.info("%s took %.1f s", ctx.command_path, time.perf_counter() - begun)
        return exit_code

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")  # as it is: to be copied


class Group(_Helpful, click.Group):
    """Commands under one name, shown in `sections` in the order in which they are used."""

    def __init__(self, name: str, text: str, sections: dict[str, Sequence[click.Command]], **attributes: Any) -> None:
        members = {member.name or "": member for section in sections.values() for member in section}
        super().__init__(
            name, help=text, commands=members, subcommand_metavar="COMMAND ...", no_args_is_help=False, **attributes
        )
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing and not args:  # click has taken the options out of it
            print(ctx.get_help(), file=sys.stderr)
            ctx.exit(2)
        return rest

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise click.UsageError(explain_unknown_command(self, ctx, args[0]), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for title, members in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{member.name or '':{width}}", member.help or "") for member in members])


def version_option() -> click.Option:
    """Return `--version`: what a report of a fault should name."""

    def show(ctx: click.Context, parameter: click.Parameter, is_given: bool) -> None:
        if is_given and not ctx.resilient_parsing:
            from importlib.metadata import version

            print(f"gpt {__version__}, Python {platform.python_version()}, torch {version('torch')}")
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show, help="show the version and end"
    )


def _verbose_option() -> click.Option:
    def listen(ctx: click.Context, parameter: click.Parameter, times: int) -> None:
        if not ctx.resilient_parsing:
            ours = logging.INFO if times == 1 else logging.DEBUG
            for name, level, least in (("gpt", ours, 1), ("flows", ours, 1), ("", logging.INFO, 2)):
                if times >= least:
                    told = logging.getLogger(name)
                    ctx.call_on_close(partial(told.setLevel, told.level))
                    told.setLevel(level)

    return click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=listen,
        help="say what is done; -vv: and what the libraries say, and where an error comes from",
    )


def _show_help(ctx: click.Context, parameter: click.Parameter, is_given: bool) -> None:
    if is_given and not ctx.resilient_parsing:
        print(ctx.get_help())  # not click.echo, which takes an encoding of its own where the locale's is ASCII
        ctx.exit()
