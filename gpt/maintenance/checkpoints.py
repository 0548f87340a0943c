"""Checkpoints that nobody goes on from: of runs that were given up, and states before a decay that no setting leads to.

A run that trains holds its folder by a lock of the kernel's, and so does whoever removes it. What a kill leaves of a removal are
whole checkpoints and names that the next trainer clears up.
"""

import socket
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from gpt import locks, paths
from gpt.errors import UserError
from gpt.finetuning.finetune import find_job
from gpt.locks import locked
from gpt.maintenance.plan import Item, Limits, days_of, first
from gpt.maintenance.project import Project
from gpt.params.finetuning import registered_name
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.fingerprint import Fingerprint, fingerprint, load_fingerprint
from gpt.training.checkpoints.stable import STABLE

_LOCK_SECONDS = 60.0
_ELSEWHERE_SECONDS = 2 * 86_400.0  # a trainer saves more often than that


def look(project: Project, limits: Limits, began_with: Mapping[str, Collection[str]]) -> list[Item]:
    """Return the runs with checkpoints here, which need what `began_with` says of their fingerprints.

    Raises `UserError` where it cannot be told which one the present settings are of.
    """
    root = paths.kept(paths.CHECKPOINTS)
    folders = sorted(path for path in root.glob("*") if path.is_dir() and path.name != STABLE)
    states = sorted(path for path in (root / STABLE).glob("*") if path.is_dir())
    if not folders and not states:
        return []
    now, recipes = fingerprint(project.params), dict(_of_recipes(project))
    present = {now.id, *recipes.values()}
    runs = [_run(folder, present, recipes, project, limits) for folder in folders]
    runs = [replace(run, needs=run.needs | set(began_with.get(Path(run.name).name, ()))) for run in runs]
    return [*runs, *(_state(folder, now, limits, project.named()) for folder in states)]


def remove(item: Item) -> None:
    """Remove the checkpoints of a run, or a state; raise `UserError` if somebody trains there meanwhile."""
    folder = paths.kept(paths.CHECKPOINTS).parent / item.name
    if folder.parent.name == STABLE:
        with locked(folder.parent / "lock", _LOCK_SECONDS, lambda holder: f"{folder.parent}: held by {holder}"):
            checkpoints.remove(folder)
        return
    with checkpoints.single_trainer(folder):
        checkpoints.remove(folder)


def half_removed() -> list[Path]:
    """Return the folders in which a killed save or removal has left something, and nobody trains."""
    root = paths.kept(paths.CHECKPOINTS)
    left = {path.parent for pattern in (".partial_*", ".old_*") for path in root.glob(f"*/{pattern}")}
    return sorted(folder for folder in left if checkpoints.holder(folder) is None)


def finish_removal(folder: Path) -> str:
    """Remove what is left of a killed save or removal, put back what it had moved aside; raise `UserError` if somebody trains."""
    with checkpoints.single_trainer(folder):  # which clears up
        return f"{folder}: cleared up"


def _of_recipes(project: Project) -> Iterator[tuple[str, str | None]]:
    """Yield by the name of its runs the fingerprint of each present recipe; None where its data are not here to tell."""
    for recipe in project.recipes:
        name = registered_name(project.params.register_.name, recipe)
        try:
            yield name, find_job(recipe, project.params).identity().id
        except (UserError, OSError):
            yield name, None


def _run(
    folder: Path, present: set[str | None], recipes: dict[str, str | None], project: Project, limits: Limits
) -> Item:
    name, run, saved = f"{paths.CHECKPOINTS}/{folder.name}", load_fingerprint(folder), checkpoints.steps(folder)
    holder, age = checkpoints.holder(folder), _age(folder, saved)
    is_untold = run is not None and recipes.get(run.name, "") is None
    journal = _journal(saved)
    stays = first(
        [
            f"{holder} trains here" if holder else _elsewhere(folder, age),
            "the present settings go on from here" if folder.name in present else "",
            "settings or an experiment begin with it" if name in project.named() else "",
            "DVC's queue holds experiments, which may go on from it" if project.has_queue and saved else "",
            "a sweep has trials that may go on from it" if project.has_open_trials and saved else "",
            "its recipe's data are not here to tell whether it goes on" if is_untold else "",
            limits.young(age),
        ]
    )
    of = f" of {run.name}" if run else ""
    what = (
        f"an unfinished run{of}, at step {checkpoints.step_of(saved[-1])}"
        if saved
        else f"a run{of} without checkpoints"
    )
    reason = f"{what}, {days_of(age)}, which other settings, data or code began"
    names, needs = frozenset({f"fingerprint:{folder.name}"}), frozenset({journal} if journal else ())
    return Item(name, "checkpoints", _size(folder), reason, stays, names, needs)


def _state(folder: Path, now: Fingerprint, limits: Limits, named: frozenset[str]) -> Item:
    name, run, saved = (
        f"{paths.CHECKPOINTS}/{STABLE}/{folder.name}",
        load_fingerprint(folder),
        checkpoints.steps(folder),
    )
    age = _age(folder, saved)
    is_ours = (
        run is not None
        and bool(saved)
        and run.until(checkpoints.step_of(saved[-1])) == now.until(checkpoints.step_of(saved[-1]))
    )
    stays = first(
        [
            "a longer run of the present settings begins with it" if is_ours else "",
            "settings or an experiment begin with it" if name in named else "",
            limits.young(age),
        ]
    )
    reason = f"the state before its decay of a run{f' of {run.name}' if run else ''} of other settings, {days_of(age)}"
    return Item(name, "checkpoints", _size(folder), reason, stays, frozenset({f"fingerprint:{folder.name}"}))


def _elsewhere(folder: Path, age_seconds: float) -> str:
    """Return who may train in a folder on another machine, whose locks not every file system shows; "" if nobody does."""
    said = locks.holder(folder / "lock")
    on_another = " on " in said and f" on {socket.gethostname()}, since " not in said
    return f"{said} may train here" if on_another and age_seconds < _ELSEWHERE_SECONDS else ""


def _journal(saved: list[Path]) -> str | None:
    """Return the journal that a run goes on in, as its newest checkpoint names it."""
    for path in reversed(saved):
        try:
            run = checkpoints.run_of(path)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if run:
            return f"{paths.SPOOL}/{run}.jsonl"
    return None


def _age(folder: Path, saved: list[Path]) -> float:
    """Return how many seconds ago something was last written in a run's folder."""
    written = [path.stat().st_mtime for path in (folder, *saved) if path.exists()]
    return time.time() - max(written, default=time.time())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
