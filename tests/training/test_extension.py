"""A run that is made longer, or falls otherwise, begins with the state before another's decay, and ends as it would alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.files import read_json, sha256_tree
from gpt.params.project import load_params
from gpt.training.checkpoints.stable import STABLE
from gpt.training.pretrain import pretrain
from tests.conftest import merge, small_change, write_params
from tests.training.conftest import TRAIN

WSD = {"schedule": "wsd", "warmup_fraction": 0.0, "warmup_steps": 6, "decay_fraction": 0.5, "min_lr": 0.001}


def change(**train: Any) -> None:
    """Set values of `train` in the current project."""
    text = load_params().fetch.sources[0].model_dump()["path"]
    merged = small_change(Path(text))
    merge(merged, {"train": TRAIN | WSD | train, "model": {"dropout": 0.1}})
    write_params(Path.cwd(), merged)


def train(**settings: Any) -> bytes:
    """Train the current project with such settings of `train`; return its weights file."""
    change(**settings)
    pretrain(load_params())
    return (paths.BASE_MODEL / "model.safetensors").read_bytes()


def kept() -> list[str]:
    return [path.name for path in sorted((paths.CHECKPOINTS / STABLE).glob("*/step_*"))]


def test_a_run_extended_from_300_to_600_steps_is_one_of_600_to_the_last_byte(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_project("whole")
    whole = train(max_steps=600, log_interval=7, eval_interval=100)
    plots = sha256_tree(Path("plots"))
    assert read_json(paths.RUN, "")["parent"] is None
    make_project("extended")
    short = train(max_steps=300, log_interval=7, eval_interval=100)
    parent = read_json(paths.RUN, "")["fingerprint"]
    assert kept() == ["step_00000150"]
    capsys.readouterr()
    assert train(max_steps=600, log_interval=7, eval_interval=100) == whole != short
    assert f"going on from step 150 of checkpoints/stable/{parent}" in capsys.readouterr().out
    assert sha256_tree(Path("plots")) == plots, "curves have the steps before too"
    found = read_json(paths.RUN, "")["parent"]
    assert (found["fingerprint"], found["step"]) == (parent, 150)
    assert kept() == ["step_00000300"], "the newest alone"
