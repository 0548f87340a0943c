import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpt import paths
from gpt.commands import main as cli
from gpt.params.project import load_params
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.adoption import write_adopted
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.fingerprint import fingerprint
from gpt.training.checkpoints.stable import STABLE, StableStates
from tests.training.checkpoints.test_checkpoint import save_in_format


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["checkpoints"]) == 0
    return capsys.readouterr().out


def save(folder: Path, *steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        checkpoints.save(
            folder, Checkpoint(step, {"w": torch.ones(1000)}, {"w/step": torch.ones(1)}, {"run": "morning"})
        )


def test_every_checkpoint_is_shown_with_its_health_and_what_can_be_done(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_project()
    assert "no run has left a checkpoint" in shown(capsys)
    now = fingerprint(load_params())
    before = replace(now, parts=now.parts | {"versions": now.parts["versions"] | {"torch": "1.0"}})
    mine, other = paths.CHECKPOINTS / now.id, paths.CHECKPOINTS / before.id
    save(mine, 5, 10)
    save(other, 7)
    before.save(other)
    (mine / "step_00000010" / "model.safetensors").write_bytes(b"")
    os.utime(mine / "step_00000005" / "manifest.json", (0, 2_000_000_000))
    with checkpoints.single_trainer(other):
        text = shown(capsys)
    first, second = sorted([text.index(str(mine)), text.index(str(other))])
    parts = {str(mine) in text[first:second]: text[first:second], str(mine) in text[second:]: text[second:]}
    assert "nobody trains here" in parts[True]
    assert "step 10, " in parts[True] and "damaged: model.safetensors has 0 bytes, not" in parts[True]
    assert "step 5, 0 seconds old, 0.0 MB, whole, run morning" in parts[True]
    assert parts[True].index("step 10") < parts[True].index("step 5,"), "the newest first"
    assert "to go on from here: gpt pretrain" in parts[True]
    assert f"to delete it: rm -r {mine}" in parts[True]
    assert f"process {os.getpid()} on " in parts[False] and "trains here" in parts[False]
    assert "delete" not in parts[False], "not under a trainer"
    text = shown(capsys)
    assert "differs from what would be trained now:\n    version of torch: was 1.0, is " in text
    assert f"to go on from here all the same: gpt pretrain --adopt {other}" in text
    (other / "fingerprint.json").unlink()
    assert "of other data, code, versions, model or train settings than now" in shown(capsys)


def test_a_checkpoint_of_another_format_is_shown_as_such(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_project()
    (paths.CHECKPOINTS / "0123").mkdir(parents=True)
    save_in_format(paths.CHECKPOINTS / "0123", 7, None)
    assert "step 7, " in shown(capsys)
    assert "of format 1, which this version of gpt cannot go on from" in shown(capsys)


def test_a_state_that_a_finished_run_has_left_is_shown_as_such(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_project()
    now = fingerprint(load_params())
    StableStates(paths.CHECKPOINTS, now, keep=1).save(
        Checkpoint(9, {"w": torch.ones(1000)}, {"w/step": torch.ones(1)}, {"run": "morning"})
    )
    text, folder = shown(capsys), paths.CHECKPOINTS / STABLE / now.id
    assert text.startswith(f"{folder}: the state before its decay that a run has left\n  step 9, 0 seconds old")
    assert f"to delete it: rm -r {folder}" in text
    assert "adopt" not in text and "trains here" not in text
    write_adopted(folder, [{"fingerprint": "0123", "step": 7, "differences": []}])
    assert (
        f"its run took over another's checkpoint; to go on from here all the same: gpt pretrain --adopt {folder}"
        in (text := shown(capsys))
    )
    assert "begins with it by itself" not in text


def test_a_state_that_is_removed_while_it_is_looked_at_is_passed_by(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project()
    now, find_damage = fingerprint(load_params()), checkpoints.find_damage
    StableStates(paths.CHECKPOINTS, now, keep=1).save(
        Checkpoint(9, {"w": torch.ones(1000)}, {"w/step": torch.ones(1)}, {"run": "morning"})
    )

    def removed_meanwhile(path: Path) -> str | None:
        damage = find_damage(path)
        checkpoints.remove_one(path)
        return damage

    monkeypatch.setattr(checkpoints, "find_damage", removed_meanwhile)
    assert f"to delete it: rm -r {paths.CHECKPOINTS / STABLE / now.id}" in shown(capsys)


def test_without_data_all_are_of_another_time(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_project()
    save(paths.CHECKPOINTS / "0123", 7)
    shutil.rmtree(paths.TOKENS)
    assert "of other data" in shown(capsys)
