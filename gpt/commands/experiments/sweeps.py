"""Commands that search settings: many trials of a file in sweeps/, what came of them, and the best one into params.yaml."""

import json
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from gpt.commands.line.arguments import TEXT, at_least
from gpt.commands.line.command import Group, command

if TYPE_CHECKING:
    from gpt.sweeps.records import Records
    from gpt.sweeps.settings import Sweep


class _Name(click.ParamType[str]):
    """The name of a sweep: of its file, without sweeps/ and .yaml, though both may be typed."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        value = TEXT.convert(value, param, ctx).removeprefix("sweeps/").removesuffix(".yaml")
        if not value or not all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in value):
            self.fail("must be the name of a file in sweeps/: letters, digits, '.', '_' and '-'", param, ctx)
        if not value[0].isalnum() or ".." in value:
            self.fail("must begin with a letter or a digit, without two dots together", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from gpt.paths import SWEEPS, current_folder, find_project

        project = find_project(current_folder())
        files = (project / SWEEPS).glob("*.yaml") if project else ()
        return [CompletionItem(path.stem) for path in sorted(files) if path.stem.startswith(incomplete)]


_NAME = click.argument("name", type=_Name(), metavar="NAME", help="of the file sweeps/NAME.yaml")


@command(
    examples=[
        "gpt sweep run learning_rate",
        "gpt sweep run learning_rate --workers 2",
        "gpt sweep run learning_rate --retry-failed  # those that have failed once more",
    ],
    notes="Killed or stopped at any moment, the same command goes on: each trial is run once. Started twice, two share the work.",
)
@_NAME
@click.option("--workers", type=at_least(int, 1), default=1, metavar="N", help="trials at a time (default: 1)")
@click.option("--retry-failed", is_flag=True, help="run the trials that have failed again, too")
@click.option("--json", "json_", is_flag=True, help="in the end, print what came of it as JSON")
def run(name: str, workers: float, retry_failed: bool, json_: bool) -> int:
    """run the trials of sweeps/NAME.yaml, each as an experiment of DVC and a run of MLflow"""
    from gpt.sweeps.records import COMPLETE, Records
    from gpt.sweeps.settings import load_sweep
    from gpt.sweeps.table import describe, to_record
    from gpt.sweeps.workers import run_sweep

    page = run_sweep(name, int(workers), retry=retry_failed)
    records, sweep = Records(name), load_sweep(name)
    trials = records.trials()
    if json_:
        print(json.dumps(to_record(records, sweep), indent=2, ensure_ascii=False))
    else:
        print(f"{describe(records, sweep)}\n\npage: {page}")
    return 0 if any(trial.state == COMPLETE for trial in trials) else 1


@command(examples=["gpt sweep show learning_rate", "gpt sweep show learning_rate --json"])
@_NAME
@click.option("--json", "json_", is_flag=True, help="print it as JSON, with the curves")
def show(name: str, json_: bool) -> int:
    """show every trial, what it tried, what came of it and why; and write reports/sweeps/NAME.html"""
    from gpt.sweeps.page import write_page
    from gpt.sweeps.table import describe, to_record

    records, sweep = _begun(name)
    if json_:
        print(json.dumps(to_record(records, sweep), indent=2, ensure_ascii=False))
        return 0
    print(describe(records, sweep))
    print(f"\npage: {write_page(records, sweep)}")
    return 0


@command(examples=["gpt sweep apply learning_rate", "gpt sweep apply learning_rate --trial 3"])
@_NAME
@click.option("--trial", type=at_least(int, 1), metavar="K", help="this one's settings (default: the best one's)")
def apply(name: str, trial: float | None) -> int:
    """write the settings of the best trial into params.yaml, and leave the rest of it as it is"""
    from gpt.sweeps.apply import apply as write

    records, sweep = _begun(name)
    print("\n".join(write(records, sweep, None if trial is None else int(trial))))
    return 0


@command(examples=["gpt sweep log learning_rate 3"])
@_NAME
@click.argument("trial", type=at_least(int, 1), metavar="K", help="the number of the trial")
def log(name: str, trial: float) -> int:
    """print what DVC and training said in a trial, all its starts one after the other"""
    from gpt.sweeps.records import Records

    records = Records(name)
    records.about()
    number = records.trial(int(trial)).number
    path = records.log(number)
    print(path.read_text(encoding="utf-8") if path.exists() else f"trial {number} has said nothing yet", end="")
    return 0


@command(
    examples=["gpt sweep forget learning_rate"],
    notes="Its experiments stay in DVC (`dvc exp remove NAME-001`), its runs in MLflow, and what was trained in DVC's cache, from"
    " which a sweep that begins anew takes it.",
)
@_NAME
def forget(name: str) -> int:
    """forget what is known of a sweep here, so that another one of that name can begin"""
    from gpt.sweeps.records import Records

    records = Records(name)
    records.about()
    records.forget()
    print(f"sweep {name}: forgotten; `gpt sweep run {name}` begins anew")
    return 0


def _begun(name: str) -> "tuple[Records, Sweep]":
    from gpt.sweeps.records import Records
    from gpt.sweeps.settings import Sweep

    records = Records(name)
    return records, Sweep.model_validate(records.about().sweep)


SWEEP = Group(
    "sweep", "search settings: many trials, the best one by one command", {"Commands": (run, show, apply, log, forget)}
)
