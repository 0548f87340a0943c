"""The types of the commands' arguments. Each says what it takes and, in a shell, how it is completed."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from gpt import entry, paths
from gpt.commands.line.mistakes import meant


def at_least(kind: type[int] | type[float], least: float, most: float | None = None) -> click.ParamType[float]:
    """Return the type for numbers from `least` to `most`."""
    noun = "a whole number" if kind is int else "a number"
    limits = f"{noun} of at least {least}" + ("" if most is None else f" and at most {most}")

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"must be {limits}, not {text!r}") from None
        if not (least <= value < 2**63 and (most is None or value <= most)):
            raise ValueError(f"must be {limits}, not {text}")
        return value

    return click.types.FuncParamType(convert)


class OneOf(click.ParamType[str]):
    """One of a few words."""

    name = "choice"

    def __init__(self, *words: str) -> None:
        self.words = words

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join(self.words)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.words:
            near = meant(value, self.words)
            guess = f"; did you mean {near[0]}?" if near else ""
            self.fail(f"must be {' or '.join(self.words)}, not {entry.readable(value)!r}{guess}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


class Text(click.ParamType[str]):
    """A text as it was typed, whatever the locale."""

    name = "text"

    def __init__(self, *, may_be_empty: bool = True) -> None:
        self.may_be_empty = may_be_empty

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value and not self.may_be_empty:
            self.fail("must not be empty", param, ctx)
        return entry.readable(value)


class FromHere(click.ParamType[Path]):
    """A path: what it means where the user stands. A default is one of the project."""

    name = "path"

    def __init__(self, kind: str = "file") -> None:
        self.kind = kind  # "file" or "dir", for completion

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if value == "":  # of a shell's variable that is not set, for example: it would mean the current folder
            self.fail("must not be empty", param, ctx)
        return value if isinstance(value, Path) else paths.from_here(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type=self.kind)]


class Where(Text):
    """A path, which means what it means where the user stands, or an address."""

    name = "path"

    def __init__(self) -> None:
        super().__init__(may_be_empty=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = super().convert(value, param, ctx)
        return text if "://" in text else str(paths.from_here(text))


class Model(click.ParamType[str]):
    """A model: a URI as it is, a folder as `gpt.paths.from_here` says."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if isinstance(value, Path):
            return str(value)
        return entry.readable(value) if value.startswith(("models:", "@")) else str(paths.from_here(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if not incomplete.startswith(("models:", "@")):
            return [CompletionItem(incomplete, type="dir")]
        from gpt.commands.line.registered import registered_models

        return registered_models(incomplete)


class Version(Text):
    """A registered version, by number or alias."""

    name = "version"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from gpt.commands.line.registered import registered_models

        return registered_models(incomplete)


TEXT = Text()
NOT_EMPTY = Text(may_be_empty=False)
MODEL = Model()
VERSION = Version()

model_option = click.option(
    "--model",
    type=MODEL,
    default=paths.BASE_MODEL,  # of the project; text would be taken for typed
    metavar="PATH|URI",
    help=f"a model folder, models:/NAME/VERSION or models:/NAME@ALIAS (default: {paths.BASE_MODEL})",
)
json_option = click.option("--json", "json_", is_flag=True, help="print the version as JSON in the last line")
