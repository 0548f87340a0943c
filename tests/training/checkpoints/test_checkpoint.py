import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpt.errors import UserError
from gpt.files import read_json, sha256_file, write_json
from gpt.processes.owner import OWNER
from gpt.training.checkpoints import checkpoint
from gpt.training.checkpoints.checkpoint import Checkpoint
from tests import ROOT


def make(step: int) -> Checkpoint:
    weights = {"w": torch.full((3, 4), float(step))}
    return Checkpoint(step, weights, {"w/exp_avg": torch.ones(3, 4), "w/step": torch.tensor(float(step))}, {"run": "r"})


def test_the_newest_comes_back(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, make(step))
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert (found.step, found.state["run"]) == (15, "r")
    assert torch.equal(found.weights["w"], make(15).weights["w"])
    assert found.optimizer["w/step"] == 15


@pytest.mark.parametrize(
    ("last", "every", "kept"), [(1, 0, [25]), (2, 0, [20, 25]), (2, 10, [10, 20, 25]), (9, 0, [5, 10, 15, 20, 25])]
)
def test_the_newest_and_those_of_every_so_many_steps_stay(
    tmp_path: Path, last: int, every: int, kept: list[int]
) -> None:
    for step in (5, 10, 15, 20, 25):
        checkpoint.save(tmp_path, make(step))
        checkpoint.prune(tmp_path, step, last, every)
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == kept
    assert len(list(tmp_path.iterdir())) == len(kept), "nothing else is left"


def test_of_those_that_signals_had_saved_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    for step in (5, 10, 11, 12, 13):
        checkpoint.save(tmp_path, replace(make(step), is_scheduled=step % 5 == 0))
        checkpoint.prune(tmp_path, step, 1, 0)
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [10, 13]
    for only_scheduled, step in ((True, 10), (False, 13)):
        found = checkpoint.load_latest(tmp_path, only_scheduled=only_scheduled)
        assert found is not None and found.step == step
        assert found.is_scheduled == only_scheduled


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_checkpoint_that_is_saved_again_is_the_new_one(
    tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(checkpoint, "exchange", lambda *_: False)
    for run in ("first", "second"):
        checkpoint.save(tmp_path, replace(make(5), state={"run": run}))
    found = checkpoint.load_latest(tmp_path)
    assert found is not None and found.state["run"] == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, make(5))
    checkpoint.save(tmp_path, make(10))
    path = tmp_path / "step_00000010" / file
    data = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-1] if damage == "truncate" else data)
    if file == "manifest.json" and damage == "truncate":
        path.write_bytes(data[: len(data) // 2])  # without its last newline it would still be whole
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 5
    assert "step_00000010 is damaged" in caplog.text


def save_in_format(folder: Path, step: int, number: int | None) -> Path:
    """Save a checkpoint as a version of gpt with another format would: format 1 had no number and no `state`."""
    checkpoint.save(folder, make(step))
    path = folder / f"step_{step:08d}"
    about = read_json(path / "state.json", "")
    if number is None:
        about = about["state"] | {"step": step, "is_regular": True}
    else:
        about["format"] = number
    write_json(path / "state.json", about)
    manifest = read_json(path / "manifest.json", "")
    file = path / "state.json"
    manifest["state.json"] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    write_json(path / "manifest.json", manifest)
    return path


@pytest.mark.parametrize("number", [None, checkpoint.FORMAT + 1])
def test_checkpoints_of_another_format_are_passed_by_with_one_warning_and_left_for_the_version_that_wrote_them(
    tmp_path: Path, number: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    others = [save_in_format(tmp_path, step, number) for step in (10, 15)]
    assert checkpoint.load_latest(tmp_path) is None
    assert "training goes on from step 0" in caplog.messages[0]
    checkpoint.save(tmp_path, make(5))
    checkpoint.prune(tmp_path, 5, 1, 0)
    caplog.clear()
    found = checkpoint.load_latest(tmp_path)
    assert found is not None and found.step == 5
    (warning,) = caplog.messages
    assert f"2 checkpoint(s) up to step_00000015 are of format {number or 1}" in warning
    assert "training goes on from step 5; to use them, " in warning
    assert all(checkpoint.find_damage(path) is None for path in others)
    checkpoint.save(tmp_path, make(15))
    checkpoint.prune(tmp_path, 15, 1, 0)
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [15], "this run has come as far"


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(5))
    (tmp_path / ".partial_x").mkdir()
    (tmp_path / ".partial_x" / "model.safetensors").write_bytes(b"half")
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 5
    with checkpoint.single_trainer(tmp_path):
        assert not list(tmp_path.glob(".partial_*"))


HOLD = """
import sys
from pathlib import Path
from gpt.training.checkpoints import checkpoint
with checkpoint.single_trainer(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_save_had_moved_aside_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(5))
    (tmp_path / "step_00000005").rename(tmp_path / ".old_step_00000005")
    with checkpoint.single_trainer(tmp_path):
        found = checkpoint.load_latest(tmp_path)
    assert found is not None and found.step == 5
    (tmp_path / ".old_step_00000005").mkdir()
    with checkpoint.single_trainer(tmp_path):
        found = checkpoint.load_latest(tmp_path)
    assert found is not None and found.step == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "step_00000005"]


@pytest.mark.parametrize("owner", ["", "4711", "of a launcher"])
def test_a_second_trainer_is_refused_and_told_who_holds_the_folder(tmp_path: Path, owner: str) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), OWNER: owner}
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        with (
            pytest.raises(UserError, match=rf"process {owner or holder.pid} on .* trains here"),
            checkpoint.single_trainer(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with checkpoint.single_trainer(tmp_path):
        pass  # the kernel freed the lock of the process that died
