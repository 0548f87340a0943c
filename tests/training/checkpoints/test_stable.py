"""Which kept states are no beginning of another run, although settings of the first steps are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.adoption import read_adopted, write_adopted
from gpt.training.checkpoints.fingerprint import Fingerprint
from gpt.training.checkpoints.stable import STABLE, StableStates


def make_run(name: str, **settings: Any) -> Fingerprint:
    """Return a fingerprint of a run on wsd; phases of its mixture begin at steps 0 and 200."""
    phases = [{"from_step": 0, "shares": {"a": 1.0}}, {"from_step": 200, "shares": {"b": 1.0}}]
    values = {"max_steps": 300, "mixture": phases, **settings}
    return Fingerprint(name, {"settings": {f"train.{key}": value for key, value in values.items()}})


def make_state(step: int, skipped_batches: int = 0, size: int = 3) -> checkpoints.Checkpoint:
    tensors = {"w": torch.full((size,), float(step))}
    return checkpoints.Checkpoint(step, tensors, {}, {"run": "morning", "skipped_batches": skipped_batches})


def _begun(root: Path, run: Fingerprint) -> tuple[str | None, list[str]]:
    """Let a run begin with a kept state; return what is said, and its checkpoints."""
    folder = root / run.id
    folder.mkdir(exist_ok=True)
    said = StableStates(root, run, 1).begin_from(folder, 180)
    return said, [path.name for path in checkpoints.steps(folder)]


@pytest.mark.parametrize(("skipped", "is_taken"), [(50, True), (51, False)])
def test_a_run_that_went_back_has_read_batches_of_later_phases(tmp_path: Path, skipped: int, is_taken: bool) -> None:
    """After step 150 it has read batch 149 + skipped: one of the second phase, which the other run has not."""
    before, now = make_run("one"), make_run("one", mixture=[{"from_step": 0, "shares": {"a": 1.0}}], max_steps=600)
    StableStates(tmp_path, before, 1).save(make_state(150, skipped))
    said, found = _begun(tmp_path, now)
    assert (said is not None, found) == (is_taken, ["step_00000150"] if is_taken else [])


def test_what_an_adopted_run_leaves_is_not_of_its_settings(tmp_path: Path) -> None:
    adopted = [{"fingerprint": "0123", "step": 7, "differences": ["params.yaml: train.learning_rate was 1.0, is 0.1"]}]
    before, now = make_run("one"), make_run("one", max_steps=600)
    (tmp_path / before.id).mkdir(parents=True)
    write_adopted(tmp_path / before.id, adopted)
    StableStates(tmp_path, before, 1).save(make_state(150))
    kept = tmp_path / STABLE / before.id
    assert _begun(tmp_path, now) == (None, [])
    said = StableStates(tmp_path, now, 1).describe_nearest(tmp_path / now.id)
    assert said and f"gpt pretrain --adopt {kept}" in said
    assert read_adopted(kept) == adopted, "so whoever adopts it has it in the lineage"
    # Trained again without it, its state is its own.
    write_adopted(tmp_path / before.id, [])
    StableStates(tmp_path, before, 1).save(make_state(150))
    assert _begun(tmp_path, now)[1] == ["step_00000150"]
