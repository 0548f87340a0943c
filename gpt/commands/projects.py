"""Commands that make a project and bring it up to date."""

from pathlib import Path
from typing import Any

import click

from gpt import entry
from gpt.commands.line.arguments import TEXT, FromHere, OneOf
from gpt.commands.line.command import command
from gpt.errors import UserError


class _Data(FromHere):
    """A file or folder where the user stands, or a data set of the hub."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).startswith("hf://"):
            return value
        if "://" in str(value):
            self.fail(
                f"{entry.readable(value)}: is no file or folder here; download it, and name what came", param, ctx
            )
        return super().convert(value, param, ctx)


@command(
    examples=[
        "gpt init my-model --data texts/",
        "gpt init shakespeare --template classic --data input.txt --name shakespeare-char",
        "gpt init --upgrade --apply  # in a project: take over what a newer gpt has otherwise",
    ],
    notes="tiny: the demo's recipe. classic: nanoGPT's on characters; short: as good in an eighth of the time."
    " gpt2-124m, 1b: for GPUs. Each params.yaml begins with what it costs.",
)
@click.argument(
    "folder",
    required=False,
    type=FromHere("dir"),
    metavar="DIR",
    help="a new folder, or one that holds nothing but the text",
)
@click.option(
    "--template", type=OneOf("tiny", "classic", "short", "gpt2-124m", "1b"), help="the recipe (default: tiny)"
)
@click.option(
    "--data", type=_Data(), metavar="FILE|FOLDER|hf://OWNER/NAME", help="the text (default: the template's own)"
)
@click.option("--name", type=TEXT, help="of experiment and model (default: the folder's)")
@click.option("--upgrade", is_flag=True, help="show what the installed version has otherwise than this project")
@click.option("--apply", is_flag=True, help="with --upgrade: change the files, keeping values and comments")
def init(
    folder: Path | None, template: str | None, data: Path | str | None, name: str | None, upgrade: bool, apply: bool
) -> int:
    """make a project around your text: settings, stages and a git repository"""
    if upgrade:
        if folder or template or data or name:
            raise UserError("--upgrade: takes no DIR, --template, --data or --name; run it in the project's folder")
        return _upgrade(apply)
    if apply:
        raise UserError("--apply: is for --upgrade; `gpt init --upgrade --apply`")
    if folder is None:
        raise UserError("DIR is missing, as in: gpt init my-model --data texts/; `gpt init --help` says more")
    from gpt.projects.create import create

    print("\n".join(create(folder, template or "tiny", None if data is None else str(data), name)))
    return 0


def _upgrade(apply: bool) -> int:
    from gpt import __version__
    from gpt.projects import upgrade

    project = Path.cwd()
    changes = upgrade.find_changes(project)
    if not changes:
        print(f"gpt {__version__}: this project has all that it wants")
        return 0
    print("\n".join(change.diff() for change in changes))
    names = [str(change.path) for change in changes]
    if apply:
        upgrade.apply(project, changes)
        print(f"changed as shown; `dvc repro` runs what this concerns, `git checkout {' '.join(names)}` goes back")
    else:
        print(f"nothing is changed yet: `gpt init --upgrade --apply` changes {' and '.join(names)} as shown")
    return 0
