"""A trial's copy is the last commit with its own values; what it leaves is an experiment that DVC knows, once."""

import re
import subprocess
from pathlib import Path

import pytest

from gpt import git
from gpt.errors import UserError
from gpt.files import parse_yaml
from gpt.sweeps.copies import Copy
from gpt.sweeps.records import PRUNED, RUNNING, Records, Trial
from gpt.sweeps.settings import Sweep
from gpt.sweeps.trial import Work
from gpt.sweeps.workers import check_committed, environment_of
from tests import ROOT

VALUES = {"train.learning_rate": 0.0123, "model.n_layer": 2}


def run(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["", "inner, ü"], ids=["top", "below"])
def project(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project at the top of a git repository, or in a folder of it."""
    folder = tmp_path / "a repository" / request.param
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    (folder / ".dvc/config.local").write_text(
        "['remote \"s\"']\n    url = ssh://host/x\n    password = hunter2\n", encoding="utf-8"
    )
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "metrics").mkdir()
    (folder / "metrics/evaluate.json").write_text("{}\n", encoding="utf-8")
    top = tmp_path / "a repository"
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@e", "commit", "-qm", "begin"],
    ):
        run(top, "git", *command)
    monkeypatch.chdir(folder)
    return folder


def test_a_copy_differs_in_its_values_alone(project: Path) -> None:
    copy = Copy(project, git.find_commit(project) or "", "s/trial_001")
    copy.make(VALUES)
    settings = parse_yaml((copy.project / "params.yaml").read_text(encoding="utf-8"))
    assert (settings["train"]["learning_rate"], settings["model"]["n_layer"]) == (0.0123, 2)
    patch = run(copy.project, "git", "diff", "-U0").splitlines()
    assert [line for line in patch if re.match(r"[-+][^-+]", line)] == [
        "-  n_layer: 4", "+  n_layer: 2", "-  learning_rate: 0.01", "+  learning_rate: 0.0123",
    ]  # fmt: skip
    local = (copy.project / ".dvc/config.local").read_text(encoding="utf-8")
    assert str(project / ".dvc/cache") in local
    assert "hunter2" not in local, "keys to a remote stay where they are"
    assert not run(project, "git", "status", "--porcelain")
    assert not run(project, "git", "worktree", "list").splitlines()[1:]
    (copy.project / "metrics/evaluate.json").write_text('{"of": "a kill"}', encoding="utf-8")
    copy.make(VALUES)
    assert "kill" in (copy.project / "metrics/evaluate.json").read_text(encoding="utf-8"), "it goes on in the same one"


def test_an_experiment_is_recorded_once_and_dvc_knows_it(project: Path) -> None:
    copy = Copy(project, git.find_commit(project) or "", "s/trial_001")
    copy.make(VALUES)
    (copy.project / "plots").mkdir()
    (copy.project / "plots/validation.csv").write_text("step\n1\n", encoding="utf-8")
    commit = copy.save("s-001", "a trial", is_measured=False)
    assert copy.save("s-001", "a trial", is_measured=False) == commit
    prefix = run(project, "git", "rev-parse", "--show-prefix").strip()
    changed = run(project, "git", "-c", "core.quotePath=false", "diff", "--name-status", "HEAD", commit).splitlines()
    names = {"M": "params.yaml", "D": "metrics/evaluate.json", "A": "plots/validation.csv"}
    assert sorted(changed) == sorted(f"{kind}\t{prefix}{name}" for kind, name in names.items())
    assert not run(project, "git", "status", "--porcelain"), "neither index nor files of the project were touched"
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        (listed,) = repo.experiments.ls().values()
    assert [(name, rev) for name, rev in listed] == [("s-001", commit)]
    copy.make(VALUES | {"model.n_layer": 3})
    assert copy.save("s-001", "again", is_measured=True) != commit, "a trial that was run again replaces what it left"
    copy.remove()
    assert run(project, "git", "cat-file", "-t", commit).strip() == "commit", "its objects are the project's"


def test_a_trial_that_was_given_up_stays_so_if_we_are_killed_before_it_has_stopped(project: Path) -> None:
    sweep = Sweep.model_validate({
        "method": "random", "trials": 1, "seed": 1, "metric": "validation_bits_per_byte", "direction": "minimize",
        "parameters": {"train.learning_rate": {"low": 0.001, "high": 0.1}}, "overrides": {}, "pruner": {"kind": "none"},
    })  # fmt: skip
    records = Records("s")
    records.begin(sweep.model_dump(mode="json"), git.find_commit(project) or "")
    values = {"train.learning_rate": 0.0123}
    records.write(Trial(1, values, RUNNING, "worse than others", curve=[(10, 3.5)], starts=1))
    lock = records.try_to_hold(1)
    assert lock
    with lock:
        for _ in range(2):  # and again: nothing is done twice
            Work(project, records, sweep, records.trial(1), lock, print).do(parent="")
    trial = records.trial(1)
    assert (trial.state, trial.value, trial.starts, trial.run) == (PRUNED, 3.5, 1, "")
    listed = run(project, "git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
    assert len(listed) == 1
    assert listed[0].startswith(trial.commit)
    assert listed[0].endswith("/s-001")
    assert not records.log(1).exists(), "nothing was started"


def test_what_is_not_committed_is_told_before_a_sweep_begins(project: Path) -> None:
    commit = check_committed(project)
    (project / "metrics/evaluate.json").write_text('{"a": 1}', encoding="utf-8")
    assert check_committed(project) == commit, "results decide nothing"
    (project / "params.yaml").write_text("base: {}\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"params.yaml: changed and not committed, and trials begin from the last commit"
    ):
        check_committed(project)


def test_workers_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [environment_of(slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0,4", "1"]
    assert environment_of(3, 4)["CUDA_VISIBLE_DEVICES"] == "0,1,4", "too few to divide: all share all"
    assert int(environment_of(0, 1000)["OMP_NUM_THREADS"]) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment_of(0, 2)["OMP_NUM_THREADS"] == "7", "the user's stays"
