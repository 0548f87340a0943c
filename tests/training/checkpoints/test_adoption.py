"""Going on from another run's checkpoint: never by itself, never in silence, never where it cannot fit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gpt import paths
from gpt.commands import main as cli
from gpt.files import read_json
from gpt.params.project import load_params
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.adoption import adopt
from gpt.training.checkpoints.fingerprint import fingerprint
from tests.conftest import small_change, write_params
from tests.training.conftest import TRAIN
from tests.training.test_trainer import Killed, Poison, start, wait_for_checkpoint

UNFINISHED = {"max_steps": 3000, "checkpoint_interval": 5, "eval_interval": 3000, "sample_interval": 3000}


def change_params(project: Path, **change: dict[str, object]) -> None:
    """Write other settings into a project that `make_project` made."""
    merged = small_change(project / "text.jsonl") if (project / "text.jsonl").exists() else {}
    merged["train"] = merged.get("train", {}) | TRAIN
    values = read_params(project)
    for section, keys in change.items():
        values[section] = values[section] | keys
    write_params(project, values)


def read_params(project: Path) -> dict[str, dict[str, object]]:
    return load_params(project / "params.yaml").model_dump(mode="json", by_alias=True)


@pytest.fixture
def stopped(make_project: Callable[..., Path]) -> Path:
    """The checkpoint folder of a run that was killed after some steps, in the current project."""
    make_project(train=UNFINISHED)
    process = start()
    wait_for_checkpoint(process, 5)
    process.kill()
    process.communicate()
    (folder,) = paths.CHECKPOINTS.iterdir()
    return folder


@pytest.mark.slow
def test_a_run_that_begins_says_what_differs_from_an_unfinished_one_of_its_name(
    stopped: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change_params(Path.cwd(), train={"max_steps": 10, "eval_interval": 10, "sample_interval": 10})
    assert cli.main(["pretrain"]) == 0
    output = capfd.readouterr().out
    assert f"in {stopped}; this one begins at step 0, since this differs:" in output
    assert "params.yaml: train.max_steps was 3000, is 10" in output
    assert f"to go on from there all the same: gpt pretrain --adopt {stopped}" in output
    assert read_json(paths.RUN, "")["adopted"] == []


def test_it_can_be_gone_on_from_and_the_result_says_so(stopped: Path, capfd: pytest.CaptureFixture[str]) -> None:
    step = checkpoints.step_of(checkpoints.steps(stopped)[-1])
    change_params(Path.cwd(), train={"max_steps": step + 5, "learning_rate": 0.002})
    assert cli.main(["pretrain", "--adopt", str(stopped)]) == 0
    output = capfd.readouterr().out
    assert f"going on from step {step} of {stopped}, although this differs:" in output
    assert f"resuming after step {step} of {step + 5}" in output
    (adopted,) = read_json(paths.RUN, "")["adopted"]
    assert (adopted["fingerprint"], adopted["step"]) == (stopped.name, step)
    assert "params.yaml: train.learning_rate was 0.01, is 0.002" in adopted["differences"]
    assert checkpoints.steps(stopped), "the other run is as it was"


@pytest.mark.slow
def test_a_kill_before_the_checkpoint_is_there_leaves_a_run_that_adopted_nothing(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    change_params(Path.cwd(), train={"max_steps": 10, "eval_interval": 10, "sample_interval": 10})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", killed)
        with pytest.raises(Killed):
            adopt(load_params(), stopped)
    assert cli.main(["pretrain"]) == 0
    assert "resuming" not in capfd.readouterr().out
    assert read_json(paths.RUN, "")["adopted"] == []


@pytest.mark.slow
def test_a_run_that_goes_back_before_its_first_checkpoint_goes_back_to_the_adopted_one(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if a signal had saved it, and not the other run's interval."""
    newest = checkpoints.load_latest(stopped)
    assert newest is not None
    step = newest.step + 1
    checkpoints.save(stopped, replace(newest, step=step, state=newest.state | {"step": step}, is_scheduled=False))
    settings: dict[str, object] = {
        "max_steps": step + 30,
        "checkpoint_interval": 1000,
        "eval_interval": 3000,
        "max_skips": 3,
    }
    change_params(Path.cwd(), train=settings)
    with monkeypatch.context() as patch:
        Poison(patch, bad=range(step, step + 5))
        assert cli.main(["pretrain", "--adopt", str(stopped)]) == 0
    assert f"going back to step {step} and past" in caplog.text


def test_what_cannot_be_gone_on_from_is_one_clear_error(
    stopped: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(folder: Path, **change: dict[str, object]) -> str:
        before = read_params(Path.cwd())
        change_params(Path.cwd(), **change)
        assert cli.main(["pretrain", "--adopt", str(folder)]) == 2
        own = paths.CHECKPOINTS / fingerprint(load_params()).id
        assert own == stopped or not checkpoints.steps(own)
        write_params(Path.cwd(), before)
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    assert "no folder; `gpt checkpoints` shows" in refused(tmp_path / "nowhere")
    assert "own folder" in refused(stopped)
    (tmp_path / "empty").mkdir()
    assert "has no fingerprint.json" in refused(tmp_path / "empty")
    assert "its model has other weights" in refused(stopped, model={"n_embd": 32})
    assert "trained by muon, and params.yaml has train.optimizer = adamw" in refused(
        stopped, train={"optimizer": "adamw"}
    )
    assert "beyond params.yaml: train.max_steps = 1" in refused(stopped, train={"max_steps": 1})
    with checkpoints.single_trainer(stopped):
        assert "trains there; stop it first" in refused(stopped, train={"learning_rate": 0.002})
    for path in checkpoints.steps(stopped):
        shutil.rmtree(path)
    assert "holds no whole checkpoint" in refused(stopped, train={"learning_rate": 0.002})
