"""Processes whose run begins with a kept state: however long that takes in process 0, none is taken for lost."""

import signal
import threading
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from gpt import locks
from gpt.entry import users_errors
from gpt.errors import Interrupted, UserError
from gpt.processes.signals import Stop
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.beginning import begin_together
from gpt.training.checkpoints.stable import STABLE, StableStates
from tests.processes.test_agreement import PROCESSES, join_group
from tests.training.checkpoints.test_saver import files_of_at_most
from tests.training.checkpoints.test_stable import make_run, make_state

HELD_SECONDS = 5  # longer than processes wait for each other


def run(rank: int, root: Path, case: str) -> None:
    state = join_group(rank, root)
    now, stop = make_run("one", max_steps=600), Stop()
    folder = root / now.id
    states: StableStates | None = None
    if not rank:
        folder.mkdir()
        states = StableStates(root, now, 1)
        lock = locks.try_lock(root / STABLE / "lock")
        assert lock is not None
        if case == "stopped":
            threading.Timer(1, setattr, (stop, "signum", signal.SIGTERM)).start()
        else:
            threading.Timer(HELD_SECONDS, lock.close).start()
    try:
        said = begin_together(state, states, folder, 180, stop)
        (root / f"{rank}").write_text(f"{said}")
    except Interrupted as stopped:
        (root / f"{rank}").write_text(str(stopped))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("case", [pytest.param("long", marks=pytest.mark.slow), "stopped"])
def test_processes_wait_for_a_run_that_holds_the_kept_states_and_a_signal_ends_that(tmp_path: Path, case: str) -> None:
    StableStates(tmp_path, make_run("one"), 1).save(make_state(150))
    spawn(run, (tmp_path, case), nprocs=PROCESSES)
    first, second = ((tmp_path / f"{rank}").read_text() for rank in range(PROCESSES))
    found = checkpoints.steps(tmp_path / make_run("one", max_steps=600).id)
    if case == "long":
        assert first.startswith("going on from step 150 of ") and second == "None"
        assert [path.name for path in found] == ["step_00000150"]
    else:
        assert first == second == "stopped by SIGTERM before the first step; run it again to go on"
        assert found == []


def test_a_full_disk_is_one_error_that_names_the_folder(tmp_path: Path) -> None:
    now = make_run("one", max_steps=600)
    StableStates(tmp_path, make_run("one"), 1).save(make_state(150, size=50_000))
    (tmp_path / now.id).mkdir()
    with files_of_at_most(100_000), pytest.raises(UserError) as told, users_errors():
        StableStates(tmp_path, now, 1).begin_from(tmp_path / now.id, 180)
    assert str(told.value) == (f"{tmp_path / now.id / 'step_00000150'}: File too large; make it writable, or make room")
    assert list((tmp_path / now.id).iterdir()) == []
