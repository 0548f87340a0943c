"""Commands that try other settings, and that show what came of them beside each other."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from gpt.commands.line.arguments import NOT_EMPTY, TEXT, at_least
from gpt.commands.line.command import command
from gpt.errors import UserError
from gpt.paths import current_folder, find_project

_TABLE = "dvc exp show --only-changed --drop '.*/|State|Executor|Created'"


def _complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the settings that begin so, to be followed by a value; no section, which has none."""
    from gpt.params.changes.overrides import known_keys
    from gpt.params.project import PARAMS_FILE

    project = find_project(current_folder())
    keys = known_keys(project / PARAMS_FILE) if project else {}
    return [
        CompletionItem(f"{key}=")
        for key, value in keys.items()
        if key.startswith(incomplete) and not isinstance(value, dict)
    ]


def _complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the experiments, branches and tags that begin so; MLflow takes seconds, and is not asked."""
    from gpt.reports.side_by_side.revisions import WORKSPACE, find_experiments, find_names

    here = current_folder()
    names = [WORKSPACE, *find_experiments(here), *find_names(here)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@command(
    examples=[
        "gpt experiment -S train.max_steps=500 --name shorter",
        "gpt experiment -S train.learning_rate=0.005,0.01,0.02 --queue  # one for each value",
        "gpt experiment --run-all  # what is queued, one after the other",
    ],
    notes="It is `dvc exp run` once the settings were found to be allowed; whatever else DVC's command can do, it does on the same"
    " experiments. Without --queue and --temp the experiment runs in this folder, and its settings stay there.",
)
@click.option(
    *("-S", "--set-param", "changes"),
    type=NOT_EMPTY,
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=_complete_key,
    help="change a setting of params.yaml; may be given several times",
)
@click.option(
    "--name", type=NOT_EMPTY, metavar="NAME", help="what the experiment is called (default: DVC thinks of a name)"
)
@click.option("--queue", is_flag=True, help="only note it down; --run-all or `dvc queue start` runs it, in a copy")
@click.option("--temp", is_flag=True, help="run in a copy of the project, which stays as it is")
@click.option("--run-all", is_flag=True, help="run what is queued, each in a copy, and wait")
@click.option("--jobs", type=at_least(int, 1), metavar="N", help="with --run-all: so many at a time (default: 1)")
def experiment(
    changes: Sequence[str], name: str | None, queue: bool, temp: bool, run_all: bool, jobs: float | None
) -> int:
    """run the pipeline with other settings, as an experiment of DVC"""
    from gpt.params.changes.overrides import check_overrides
    from gpt.reports.side_by_side.revisions import check_can_experiment, find_experiments

    project = Path.cwd()
    if run_all and (changes or name or queue or temp):
        raise UserError("--run-all: runs what was queued before; leave out -S, --name, --queue and --temp")
    if jobs is not None and not run_all:
        raise UserError("--jobs: goes with --run-all, which runs several experiments")
    if queue and temp:
        raise UserError("--queue, --temp: give one; what is queued runs in a copy, too")
    count = check_overrides(changes)
    if count > 1 and not queue:
        raise UserError(
            f"-S: makes {count} experiments, and a folder holds one; add --queue, then `gpt experiment --run-all`"
        )
    check_can_experiment(project, in_a_copy=queue or temp or run_all)
    known = find_experiments(project)
    options = [*(f"--set-param={change}" for change in changes), *([f"--name={name}"] if name else [])]
    options += [flag for flag, is_set in (("--queue", queue), ("--temp", temp), ("--run-all", run_all)) if is_set]
    options += [f"--jobs={int(jobs)}"] if jobs else []
    exit_code = _run_dvc("exp", "run", *options)
    if exit_code == 0:
        found = find_experiments(project)
        made = [each for each in found if known.get(each) != found[each]]
        print("\n".join(_next_steps(made, queued=count if queue else 0, in_a_copy=temp or run_all)))
    return exit_code


def _next_steps(made: Sequence[str], *, queued: int, in_a_copy: bool) -> list[str]:
    if queued:
        return ["next:", "  gpt experiment --run-all", "  dvc queue status"]
    shown = made or ["NAME"]
    lines = ["next:", f"  gpt compare HEAD {' '.join(shown)}", f"  {_TABLE}"]
    apply = f"  dvc exp apply {shown[0]}    # brings its settings, model and figures into this folder"
    return [*lines, apply] if in_a_copy else lines


def _run_dvc(*arguments: str) -> int:
    """Run DVC at this terminal, and return an exit code of ours. A stage whose DVC ends saves and ends, too."""
    # DVC's queue starts `dvc` by its name, and the environment at hand need not be active.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments], env=os.environ | {"PATH": path}
    )
    before = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    interrupted = False
    try:
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # DVC has got it as well: wait until it has ended
                interrupted = True
    finally:
        signal.signal(signal.SIGTERM, before)
    if interrupted:
        raise KeyboardInterrupt
    code = process.returncode
    return 128 - code if code < 0 else min(code, 1)


@command(
    examples=[
        "gpt compare HEAD workspace  # the last commit beside the files at hand",
        "gpt compare shorter longer  # experiments of DVC",
        "gpt compare @champion models:/shakespeare-gpt/3 workspace",
    ],
    notes="It tells what differs in the settings and in the figures, and writes a page with curves and samples, too."
    " Nothing is trained or measured for it.",
)
@click.argument(
    "names",
    type=TEXT,
    nargs=-1,
    required=True,
    metavar="A B ...",
    shell_complete=_complete_name,
    help="an experiment of DVC, a git revision, `workspace`, an MLflow run (name or id), models:/NAME/VERSION, models:/NAME@ALIAS"
    " or @ALIAS",
)
@click.option("--json", "json_", is_flag=True, help="print it as JSON")
def compare(names: Sequence[str], json_: bool) -> int:
    """show models side by side: settings that differ, figures, curves, samples"""
    from gpt.reports.side_by_side.compare import describe, to_record, write
    from gpt.reports.side_by_side.find import find_subjects

    subjects = find_subjects(Path.cwd(), names)
    page = write(subjects)
    if json_:
        print(json.dumps(to_record(subjects), indent=2, ensure_ascii=False))
    else:
        print(f"{describe(subjects)}\n\ncomparison: {page}")
    return 0
