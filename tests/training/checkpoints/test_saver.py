import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.saver import Saver


def make(step: int, size: int = 100) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((size,), float(step))}, {"w/exp_avg": torch.ones(size)}, {"rows": [step]})


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let every larger file fail to be written, as on a full disk; the system's own limit, not a mock."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_training_counts_meanwhile_is_not_saved(tmp_path: Path) -> None:
    checkpoint = make(5, size=1_000_000)
    with Saver(tmp_path, keep_last=2, keep_every=0) as saver:
        saver.save(checkpoint)
        checkpoint.state["rows"].append(6)
    found = checkpoints.load_latest(tmp_path)
    assert found is not None
    assert found.state["rows"] == [5]


def test_saves_follow_each_other_and_old_ones_go(tmp_path: Path) -> None:
    with Saver(tmp_path, keep_last=2, keep_every=4) as saver:
        for step in range(1, 8):
            saver.save(make(step))
        assert saver.wait()
    assert [checkpoints.step_of(path) for path in checkpoints.steps(tmp_path)] == [4, 6, 7]


def test_a_full_disk_leaves_the_older_checkpoint_and_the_next_save_tries_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Saver(tmp_path, keep_last=1, keep_every=0) as saver:
        saver.save(make(1))
        assert saver.wait()
        with files_of_at_most(100_000):
            saver.save(make(2, size=50_000))
            assert not saver.wait()
        assert "checkpoint of step 2 was not saved (" in caplog.text
        assert f"make room in {tmp_path}" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"], "nothing half is left"
        found = checkpoints.load_latest(tmp_path)
        assert found is not None and found.step == 1
        saver.save(make(3))
        assert saver.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000003"]


def test_what_is_not_finite_is_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Saver(tmp_path, keep_last=1, keep_every=0) as saver:
        saver.save(make(1))
        broken = make(2)
        broken.optimizer["w/exp_avg"][7] = math.nan
        saver.save(broken)
        assert not saver.wait()
    assert "checkpoint of step 2 was not saved: w/exp_avg is not finite" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_what_is_no_fault_of_the_disk_is_raised(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep_last=1, keep_every=0)
    saver.save(Checkpoint(1, {"w": torch.ones(2)}, {}, {"not": object()}))
    with pytest.raises(TypeError):
        saver.wait()


def test_a_damaged_checkpoint_does_not_count_as_the_newest(tmp_path: Path) -> None:
    with Saver(tmp_path, keep_last=1, keep_every=0) as saver:
        saver.save(make(90))
        saver.wait()
        checkpoints.save(tmp_path, make(100))
        (tmp_path / "step_00000100" / "optimizer.safetensors").write_bytes(b"")
        found = checkpoints.load_latest(tmp_path)
        assert found is not None and found.step == 90
        saver.save(replace(make(97), is_scheduled=False))
        assert saver.wait()
        assert [checkpoints.step_of(path) for path in checkpoints.steps(tmp_path)] == [90, 97]
        saver.save(make(100))
    assert [checkpoints.step_of(path) for path in checkpoints.steps(tmp_path)] == [100]
