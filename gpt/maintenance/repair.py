"""What is not true here any more, and putting it right: `gpt doctor` tells it, `gpt doctor --repair` does it.

Each trouble knows its own remedy. A remedy looks again before it changes anything, and done twice it does no more than once.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from gpt import addresses, paths
from gpt.errors import UserError
from gpt.files import as_object, parse_yaml
from gpt.maintenance import runs, workspace
from gpt.maintenance.project import Project
from gpt.params.project import Params
from gpt.registry.lineage import DVC_LOCK
from gpt.registry.reproduction.content import cache_of, object_of
from gpt.secrets.hiding import public_uri
from gpt.tracking import store
from gpt.tracking.spool import is_delivered

_KEEPER = "flows.keeper"
_KEEPER_SECONDS = 300.0
_NAMED = 4  # outputs, before the rest is a number


@dataclass(frozen=True)
class Trouble:
    """Something that is not true, or not whole."""

    subject: str
    text: str
    remedy: Callable[[], str] | None = None
    'Puts it right and says what was done, "" if there was nothing to do; raises `UserError`. None: it is a person\'s to do.'
    is_wrong: bool = True
    "As long as it is there, not all is true; else it is only told."
    is_server: bool = False
    "That a server is away, which other checks tell too."


def find(params: Params) -> Iterator[Trouble]:
    """Yield what is not true here; nothing is changed."""
    yield from _dvc()
    yield from _half_removed_checkpoints()
    yield from _runs(params)
    yield from _journals()
    yield from _prefect()


def _dvc() -> Iterator[Trouble]:
    """Yield what killed DVC processes have left, and outputs that are not there although the cache has them."""
    for folder in (Path(), paths.RECIPES):
        rwlock = folder / workspace.RWLOCK
        if why := workspace.why_stale(rwlock):
            yield Trouble("DVC", f"{rwlock}: {why}", partial(_clear, rwlock))
        if not (folder / DVC_LOCK).exists():
            continue
        try:
            outs = _outputs(folder)
        except UserError as error:
            yield Trouble("DVC", str(error))
            continue
        if outs:
            more = f" and {len(outs) - _NAMED} more" if len(outs) > _NAMED else ""
            command = "dvc checkout" if folder == Path() else f"dvc --cd {folder} checkout"
            text = f"{', '.join(outs[:_NAMED])}{more}: not here, and DVC's cache has them; `{command}` brings them"
            yield Trouble("DVC", text, is_wrong=False)


def _clear(rwlock: Path) -> str:
    return f"{rwlock}: removed" if workspace.clear_stale(rwlock) else ""


def _outputs(folder: Path) -> list[str]:
    """Return the outputs in a dvc.lock that are gone and that DVC's cache has; raise `UserError` if a kill has cut it short."""
    from ruamel.yaml.error import YAMLError

    path = folder / DVC_LOCK
    try:
        stages = as_object(parse_yaml(path.read_text(encoding="utf-8")))["stages"]
        outs = [out for stage in as_object(stages).values() for out in as_object(stage).get("outs", ())]
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise UserError(f"{path}: cut short or damaged; `git checkout {path}`, then `dvc repro`") from None
    gone = [out for out in outs if "md5" in as_object(out) and not (folder / out["path"]).exists()]
    if not gone:
        return []
    cache = cache_of(folder)
    return [(folder / out["path"]).as_posix() for out in gone if object_of(cache, str(out["md5"])).exists()]


def _half_removed_checkpoints() -> Iterator[Trouble]:
    from gpt.maintenance import checkpoints

    for folder in checkpoints.half_removed():
        text = f"{folder}: holds what a killed save or removal has left"
        yield Trouble("checkpoints", text, partial(checkpoints.finish_removal, folder))


def _runs(params: Params) -> Iterator[Trouble]:
    """Yield the runs that MLflow calls running, or will once it is told, and whose trainer is gone."""
    spool = paths.kept(paths.SPOOL)
    told = set()
    for journal in runs.cut_off(spool):
        told.add(journal.stem)
        text = f"run {journal.stem}: its trainer was killed, and could not say so"
        yield Trouble("MLflow", text, partial(_end, journal))
    try:
        open_runs = runs.unfinished(Project(params).experiments)
    except UserError as error:
        yield Trouble("MLflow", f"cannot be asked which runs it calls running: {error}", is_server=True)
        return
    for run in open_runs:
        if run.name in told or (spool / f"{run.name}.jsonl").exists():
            continue  # its journal tells
        if runs.is_dead(run):
            text = f"run {run.name}: is called running, and its trainer is gone"
            yield Trouble("MLflow", text, partial(_kill, run))
        else:
            text = f"run {run.name}: is called running, and nothing here tells of it: on another machine or folder it may live"
            yield Trouble("MLflow", text, is_wrong=False)
    yield from _half_removed_models(params)


def _end(journal: Path) -> str:
    runs.end(journal)
    return f"run {journal.stem}: KILLED at the last thing it told; it goes on as the same run"


def _kill(run: runs.Unfinished) -> str:
    runs.put_right(store.existing_client(), run)
    return f"run {run.name}: KILLED; it goes on as the same run"


def _half_removed_models(params: Params) -> Iterator[Trouble]:
    """Yield the models whose versions a killed `gpt gc` has removed, and not their files."""
    from gpt.maintenance import removal

    for model_id, uri in removal.half_removed(Project(params)):
        text = f"{uri}: its version was removed, and files of its model {model_id} are left"
        yield Trouble("MLflow", text, partial(removal.finish_removal, model_id, uri))


def _journals() -> Iterator[Trouble]:
    waiting = [
        path for path in sorted(paths.SPOOL.glob("*.jsonl")) if not is_delivered(path) and not runs.is_live(path)
    ]
    if waiting:
        yield Trouble("spool", f"{len(waiting)} journal(s) wait for the MLflow store", _deliver)


def _deliver() -> str:
    """Deliver as `gpt sync` does; raise `UserError` that names what the store did not take."""
    from gpt.tracking.delivery import deliver_each

    outcomes = list(deliver_each(paths.SPOOL, again=True))
    left = [f"{each.run}: {each.kind}: {each.reason}" for each in outcomes if each.kind in ("refused", "waiting")]
    if left:
        raise UserError("; ".join(left))
    return f"{sum(each.kind == 'delivered' for each in outcomes)} journal(s) delivered"


def _prefect() -> Iterator[Trouble]:
    """Yield that Prefect's server can be asked; what it says of runs is put right by the flows' keeper, a process of its own."""
    try:
        url = addresses.prefect_address()
    except UserError as error:
        yield Trouble("Prefect", str(error), is_server=True)
        return
    if url is None:
        return
    shown = public_uri(url)
    if find_spec("flows") is None or find_spec(_KEEPER) is None:
        text = f"{shown}: {_KEEPER} is not installed here, and nobody else puts its runs right"
        yield Trouble("Prefect", text, is_wrong=False)
        return
    text = f"{shown}: `python -m {_KEEPER} --once` puts right what it says of runs of this folder"
    yield Trouble("Prefect", text, partial(_keep, shown), is_wrong=False)


def _keep(shown: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", _KEEPER, "--once"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_KEEPER_SECONDS,
            check=False,
            env=os.environ,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{shown}: did not answer within {_KEEPER_SECONDS:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"{shown}: {said[-1] if said else f'exit code {done.returncode}'}")
    return "; ".join(done.stdout.strip().splitlines())
