"""Checkpoints and leftovers: what somebody holds, or goes on from, stays; what was given up goes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gpt import paths
from gpt.errors import UserError
from gpt.files import write_json
from gpt.maintenance import checkpoints as maintained
from gpt.maintenance import leftovers
from gpt.maintenance.plan import Item, Limits, plan
from gpt.maintenance.project import Project
from gpt.params.project import Params, load_params
from gpt.tracking.journal import Journal
from gpt.tracking.spool import State, place_of, write_state
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.fingerprint import Fingerprint, fingerprint
from gpt.training.checkpoints.stable import STABLE
from tests import ROOT
from tests.training.conftest import make_project

__all__ = ["make_project"]

NOTHING = Limits(days=0, versions=0)
OLD = "0123456789abcdef"


@pytest.fixture
def params(make_project: Callable[..., Path]) -> Params:
    return load_params(make_project() / "params.yaml")


def save(folder: Path, run: str | None = None, name: str = "shakespeare-gpt") -> Path:
    """Leave a whole checkpoint in a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "fingerprint.json", {"name": name, "parts": {"settings": {}}})
    checkpoints.save(folder, Checkpoint(5, {"weight": torch.ones(8)}, {}, {"run": run}))
    return folder


def look(params: Params, limits: Limits = NOTHING) -> list[Item]:
    return [*maintained.look(Project(params), limits, {}), *leftovers.look(limits)]


def stays(params: Params, name: str | Path, limits: Limits = NOTHING) -> str:
    """Return why something stays, "" if it may go."""
    return {item.name: why for item, why in plan(look(params, limits)).kept}.get(str(name), "")


def remove_all(params: Params) -> list[str]:
    free = plan(look(params)).free
    for item in free:
        maintained.remove(item) if item.part == "checkpoints" else leftovers.remove_item(item)
    return [item.name for item in free]


@contextmanager
def held(code: str) -> Iterator[None]:
    """Let another process hold something; it is killed in the end."""
    script = f"import sys, time\nfrom pathlib import Path\n{code}\nprint('held', flush=True)\ntime.sleep(600)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_that_was_given_up_goes_and_the_present_one_stays(params: Params) -> None:
    now = fingerprint(params)
    given_up, present = save(paths.CHECKPOINTS / OLD), save(paths.CHECKPOINTS / now.id)
    assert stays(params, present) == "the present settings go on from here"
    assert stays(params, given_up, Limits(30, 5)) == "of the last 30 days"
    assert remove_all(params) == [str(given_up)]
    assert not given_up.exists() and checkpoints.load_latest(present)


def test_a_living_trainer_keeps_its_run_and_a_killed_one_does_not(params: Params) -> None:
    folder = save(paths.CHECKPOINTS / OLD)
    (item,) = plan(look(params)).free
    with held(f"from gpt.locks import try_lock\nlock = try_lock(Path('{folder}/lock'))"):
        assert stays(params, folder).endswith(" trains here")
        with pytest.raises(UserError, match="trains here; wait for it"):
            maintained.remove(item)
        assert checkpoints.load_latest(folder), "it began after the look"
    assert remove_all(params) == [str(folder)]


def test_a_run_that_another_machine_was_last_at_stays_for_two_days(params: Params) -> None:
    folder = save(paths.CHECKPOINTS / OLD)
    (folder / "lock").write_text("process 1 on another-host, since 2026-01-01 00:00:00")
    assert stays(params, folder) == "process 1 on another-host, since 2026-01-01 00:00:00 may train here"
    before = time.time() - 3 * 86_400
    for path in (*folder.iterdir(), folder):
        os.utime(path, (before, before))
    assert stays(params, folder) == ""


def test_a_run_that_settings_begin_with_stays(make_project: Callable[..., Path]) -> None:
    folder = save(paths.CHECKPOINTS / OLD)
    project = make_project(train={"init_from": f"checkpoints/{OLD}/step_00000005"})
    save(project / folder)
    params = load_params(project / "params.yaml")
    with pytest.raises(UserError):  # its weights were not brought: which run is of now cannot be told
        look(params)
    assert f"checkpoints/{OLD}" in Project(params).named()


def test_the_state_before_a_decay_stays_for_a_longer_run_of_the_present_settings(params: Params) -> None:
    now = fingerprint(params)
    falls_later = Fingerprint(
        now.name, now.parts | {"settings": now.parts["settings"] | {"train.decay_fraction": 0.01}}
    )
    ours, other = paths.CHECKPOINTS / STABLE / falls_later.id, paths.CHECKPOINTS / STABLE / OLD
    save(other)
    ours.mkdir(parents=True)
    falls_later.save(ours)
    checkpoints.save(ours, Checkpoint(5, {"weight": torch.ones(8)}, {}, {"run": None}))
    assert stays(params, ours) == "a longer run of the present settings begins with it"
    assert remove_all(params) == [str(other)]
    assert checkpoints.steps(ours) and not other.exists()


def test_a_journal_stays_while_it_waits_while_it_is_open_and_while_its_run_can_go_on(params: Params) -> None:
    journal = paths.SPOOL / "20260101-000000-abcdef.jsonl"
    writer = Journal(paths.SPOOL, journal.stem)
    writer.append("start", experiment="e", run=journal.stem, fingerprint=OLD)
    writer.append("end", status="KILLED")
    assert stays(params, journal) == "its run trains now"
    writer.close(0.0)
    assert stays(params, journal) == "waits for delivery: `gpt sync`"
    write_state(journal, State(store="s", place=place_of(journal), run_id="1", offset=journal.stat().st_size))
    folder = save(paths.CHECKPOINTS / OLD, run=journal.stem)
    assert stays(params, journal, NOTHING) == "", "its run may go, and it with it"
    with held(f"from gpt.locks import try_lock\nlock = try_lock(Path('{folder}/lock'))"):
        assert stays(params, journal) == f"needed by {folder}"
    write_state(journal, State(offset=journal.stat().st_size, refused={"no": [0]}))
    assert stays(params, journal) == "refused: no"
    write_state(journal, State(offset=journal.stat().st_size))
    assert set(remove_all(params)) == {str(folder), str(journal)}
    assert not list(paths.SPOOL.iterdir())


def test_unfinished_work_and_what_killed_writers_began_go_unless_somebody_is_at_it(params: Params) -> None:
    work, aside = Path("data/.documents.work"), Path("data/.documents.work.0123456789ab")
    for folder in (work, aside):
        folder.mkdir()
        (folder / "part").write_text("half")
    partial = Path("models/.base.abcd1234.partial")
    partial.mkdir()
    (partial / "model.safetensors").write_text("half")
    holding = "from gpt.locks import try_lock\nlock = try_lock(Path('data/.documents.work.lock'))\n"
    holding += f"import fcntl, os\nfcntl.flock(os.open('{partial}', os.O_RDONLY), fcntl.LOCK_EX)"
    with held(holding):
        assert stays(params, work).endswith(" works there") and stays(params, aside).endswith(" works there")
        assert stays(params, partial) == "its writer is at work"
        assert not remove_all(params)
    assert sorted(remove_all(params)) == sorted(map(str, (work, aside, partial)))
    assert not any(path.exists() for path in (work, aside, partial))
    assert list(Path("models").iterdir()) and list(Path("data/tokens").iterdir())


def test_locks_of_flow_runs_that_ended_go_after_two_days_and_never_the_workspaces(params: Params) -> None:
    runs = Path(".cache/runs")
    runs.mkdir(parents=True)
    before = time.time() - 3 * 86_400
    for name in ("old.lock", "old.json", "young.lock", "workspace.lock"):
        (runs / name).write_text("process 1 on host, since 2026-01-01 00:00:00")
        if name != "young.lock":
            os.utime(runs / name, (before, before))
    with held("from gpt.locks import try_lock\nlock = try_lock(Path('.cache/runs/old.lock'))"):
        assert stays(params, runs / "old.json").endswith(" works there")
    for name in ("old.lock", "old.json"):
        os.utime(runs / name, (before, before))
    assert sorted(remove_all(params)) == [".cache/runs/old.json", ".cache/runs/old.lock"]
    assert sorted(path.name for path in runs.iterdir()) == ["workspace.lock", "young.lock"]


def test_what_a_killed_removal_leaves_is_cleared_up_and_no_more(params: Params) -> None:
    folder = save(paths.CHECKPOINTS / OLD)
    (folder / ".partial_step_00000002").mkdir()
    assert maintained.half_removed() == [folder]
    maintained.finish_removal(folder)
    assert maintained.half_removed() == [] and checkpoints.load_latest(folder)
