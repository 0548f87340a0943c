"""A run that is made longer, or falls otherwise, begins with the state before another's decay, and ends as it would alone."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json, sha256_tree
from gpt.params.project import load_params
from gpt.tracking.store import training_run
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.stable import STABLE, StableStates
from gpt.training.pretrain import pretrain
from gpt.training.steps.optimizer import learning_rate, stable_steps
from gpt.training.steps.sharding import copy_to_cpu
from tests.conftest import merge, small_change, write_params
from tests.training.conftest import TRAIN
from tests.training.test_trainer import Killed, Poison

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


@pytest.mark.slow
def test_a_run_extended_from_300_to_600_steps_is_one_of_600_to_the_last_byte(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_project("whole")
    whole = train(max_steps=600, log_interval=7, eval_interval=100, checkpoint_interval=50)
    plots = sha256_tree(Path("plots"))
    assert read_json(paths.RUN, "")["parent"] is None
    make_project("extended")
    short = train(max_steps=300, log_interval=7, eval_interval=100, checkpoint_interval=50)
    parent = read_json(paths.RUN, "")["fingerprint"]
    assert kept() == ["step_00000150"]
    capsys.readouterr()
    assert train(max_steps=600, log_interval=7, eval_interval=100, checkpoint_interval=50) == whole != short
    assert f"going on from step 150 of checkpoints/stable/{parent}" in capsys.readouterr().out
    assert sha256_tree(Path("plots")) == plots, "curves have the steps before too"
    found = read_json(paths.RUN, "")["parent"]
    assert (found["fingerprint"], found["step"]) == (parent, 150)
    assert kept() == ["step_00000300"], "the newest alone"


def test_runs_that_fall_otherwise_branch_from_the_same_state(make_project: Callable[..., Path]) -> None:
    make_project()
    train(max_steps=40, checkpoint_keep_stable=3)
    trunk = read_json(paths.RUN, "")["fingerprint"]
    parents, weights = [], []
    for decay, floor in ((0.25, 0.001), (0.4, 0.0)):
        alone = train(max_steps=40, decay_fraction=decay, min_lr=floor, checkpoint_keep_stable=3)
        weights.append(alone)
        parents.append(read_json(paths.RUN, "")["parent"])
        shutil.rmtree(
            paths.CHECKPOINTS / STABLE / read_json(paths.RUN, "")["fingerprint"]
        )  # so that both begin at the trunk's
    assert [(parent["fingerprint"], parent["step"]) for parent in parents] == [(trunk, 20), (trunk, 20)]
    shutil.rmtree(paths.CHECKPOINTS)
    assert train(max_steps=40, decay_fraction=0.4, min_lr=0.0) == weights[1] != weights[0], "alone it is the same"
    assert read_json(paths.RUN, "")["parent"] is None


@pytest.mark.parametrize(
    "other",
    [{"learning_rate": 0.02}, {"warmup_steps": 7}, {"log_interval": 5}, {"schedule": "cosine"}, {"decay_fraction": 0.7}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_a_state_of_other_steps_is_left_alone(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    """Settings of the first steps differ, or the decay begins before the state."""
    make_project()
    train(max_steps=20)
    assert kept() == ["step_00000010"]
    capsys.readouterr()
    length = 40 if other.keys() & {"learning_rate", "warmup_steps", "log_interval"} else 20
    train(max_steps=length, **other)
    said = capsys.readouterr().out
    assert read_json(paths.RUN, "")["parent"] is None
    assert "going on from step" not in said
    name = next(iter(other))
    assert (f"train.{name} was" in said) == (length == 40), "a longer run is told why it does not go on"


@pytest.mark.slow
def test_a_damaged_state_is_none(make_project: Callable[..., Path]) -> None:
    make_project("whole")
    whole = train(max_steps=40)
    make_project("damaged")
    train(max_steps=20)
    (state,) = (paths.CHECKPOINTS / STABLE).glob("*/step_*")
    with (state / "optimizer.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"???")
    assert train(max_steps=40) == whole
    assert read_json(paths.RUN, "")["parent"] is None


@pytest.mark.slow
def test_none_is_kept_where_none_shall_be_and_the_oldest_go(make_project: Callable[..., Path]) -> None:
    make_project()
    train(max_steps=20, checkpoint_keep_stable=2)
    train(max_steps=22, learning_rate=0.02, checkpoint_keep_stable=2)
    train(max_steps=24, learning_rate=0.03, checkpoint_keep_stable=0)
    assert sorted(kept()) == ["step_00000010", "step_00000011"]
    train(max_steps=26, learning_rate=0.04, checkpoint_keep_stable=2)
    assert sorted(kept()) == ["step_00000011", "step_00000013"]
    assert len(list((paths.CHECKPOINTS / STABLE).glob("*/"))) == 2, "no empty folder is left"


@pytest.mark.parametrize(
    "instant",
    [
        "half kept",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("before it is kept", "kept", "half begun with")),
    ],
)
def test_a_kill_at_any_instant_leaves_what_the_next_start_ends_alike_from(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    make_project("whole")
    whole = train(max_steps=40)
    make_project("killed")
    save, saves = checkpoints.save, StableStates.save

    def killed_at(self: StableStates, checkpoint: checkpoints.Checkpoint) -> None:
        if instant == "kept":
            saves(self, checkpoint)
        if instant == "half kept":
            half(self._root / self._identity.id, checkpoint)
        raise Killed

    def half(folder: Path, checkpoint: checkpoints.Checkpoint) -> None:
        (folder / ".partial_x").mkdir(parents=True)
        (folder / ".partial_x/model.safetensors").write_bytes(b"half")
        raise Killed

    if instant == "half begun with":
        train(max_steps=20)
        monkeypatch.setattr(checkpoints, "save", half)
        with pytest.raises(Killed):
            train(max_steps=40)
        monkeypatch.setattr(checkpoints, "save", save)
    else:
        monkeypatch.setattr(StableStates, "save", killed_at)
        with pytest.raises(Killed):
            train(max_steps=20)
        monkeypatch.setattr(StableStates, "save", saves)
        train(max_steps=20)
    assert kept() == ["step_00000010"]
    assert train(max_steps=40) == whole
    assert not list(paths.CHECKPOINTS.rglob(".partial_*"))
    assert read_json(paths.RUN, "")["parent"]["step"] == 10


def test_a_state_that_training_is_about_to_go_back_from_is_not_kept(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project()
    with monkeypatch.context() as patch:
        Poison(patch, bad=range(4, 10))
        with pytest.raises(UserError, match="training diverged"):
            train(max_steps=20, log_interval=12, max_skips=3, max_rollbacks=0)
        assert kept() == [], "step 10 came before the log of step 12, which ends the run"
        train(max_steps=20, log_interval=12, max_skips=3)
    (state,) = (paths.CHECKPOINTS / STABLE).glob("*/step_00000010/state.json")
    assert read_json(state, "")["state"]["rollbacks"] == 1, "of the way on which the run has ended"


def test_a_state_before_the_decay_at_a_step_of_a_checkpoint_is_copied_once(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[bool] = []

    def counting(tensors: dict[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
        copies.append(keep)
        return copy_to_cpu(tensors, keep=keep)

    monkeypatch.setattr("gpt.training.checkpoints.checkpointer.copy_to_cpu", counting)
    make_project()
    train(max_steps=20, checkpoint_interval=10)
    assert len(copies) == 2 * 2, "weights and the optimizer's state, after steps 10 and 20"
    assert kept() == ["step_00000010"]
    (state,) = (paths.CHECKPOINTS / STABLE).glob("*/step_*")
    assert checkpoints.find_damage(state) is None


@given(
    first=st.tuples(st.integers(2, 400), st.floats(0.05, 1.0)),
    second=st.tuples(st.integers(2, 400), st.floats(0.05, 1.0)),
    warmup=st.integers(0, 30),
)
def test_rates_before_both_decays_are_equal_to_the_last_bit(
    first: tuple[int, float], second: tuple[int, float], warmup: int
) -> None:
    def settings(length: int, decay: float, floor: float) -> Any:
        values = {"schedule": "wsd", "warmup_fraction": 0.0, "warmup_steps": warmup, "max_steps": length}
        rates = {"learning_rate": 0.0123, "min_lr": floor, "decay_fraction": decay}
        return SimpleNamespace(**values, **rates)

    one, other = settings(*first, 0.00017), settings(*second, 0.0)
    common = min(stable_steps(one), stable_steps(other))
    assert [learning_rate(step, one) for step in range(common)] == [
        learning_rate(step, other) for step in range(common)
    ]


def test_curves_of_a_run_that_goes_on_from_another_begin_at_its_first_step(make_project: Callable[..., Path]) -> None:
    make_project()
    train(max_steps=20)
    parent = read_json(paths.RUN, "")["fingerprint"]
    train(max_steps=40)
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    run = training_run(client, "shakespeare-gpt", read_json(paths.RUN, "")["fingerprint"])
    assert (run.data.tags["parent.fingerprint"], run.data.tags["parent.step"]) == (parent, "10")
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert sorted(steps) == list(range(4, 41, 4))
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id, "samples")] == [
        f"samples/step_{step:08d}.txt" for step in (15, 30, 40)
    ], "a text with each evaluation"
