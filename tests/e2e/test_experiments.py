"""`dvc exp run --temp` and `--queue` run in a copy that DVC deletes: what outlives a run belongs to the project itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from gpt import paths
from gpt.files import read_json
from gpt.tracking.store import training_run
from tests.e2e.conftest import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """A project whose environment lies in .venv, as `make demo` leaves it, and is not active."""
    # DVC 3.67 itself cannot make a copy for an experiment of a folder whose name is not ASCII.
    project = make_project("a project", register={"gate": {"max_bits_per_byte": 8.0}})
    (project.folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    environment = {name: value for name, value in project.environment.items() if name != "VIRTUAL_ENV"}
    environment["PATH"] = f"{project.folder}/.venv/bin:{environment['PATH']}"  # DVC's queue looks for `dvc` there
    identity = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org"}
    identity |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org"}
    return replace(project, environment=environment | identity)


def run_of_model(project: Project) -> Run:
    """The MLflow run of the project's model."""
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    return training_run(client, "shakespeare-gpt", read_json(project.folder / paths.RUN, "")["fingerprint"])


def check_recorded(project: Project, max_steps: int) -> None:
    """The run has its settings and its curve, and the version is its."""
    run = run_of_model(project)
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    assert run.data.params["train.max_steps"] == str(max_steps)
    assert max(point.step for point in client.get_metric_history(run.info.run_id, "train/loss")) == max_steps
    assert run.info.status == "FINISHED"
    measured = read_json(project.folder / paths.EVALUATION, "")
    assert run.data.metrics["test_bits_per_byte"] == measured["test"]["bits_per_byte"], "evaluated in the copy, too"
    project.run("gpt", "register")
    assert client.get_model_version_by_alias("shakespeare-gpt", "candidate").run_id == run.info.run_id
    assert not list((project.folder / "spool").glob("*.jsonl"))


def test_a_temporary_experiment_is_recorded_in_the_projects_store(project: Project) -> None:
    said = project.run("gpt", "experiment", "--temp", "-S", "train.max_steps=31", "--name", "longer")
    assert "  gpt compare HEAD longer" in said.splitlines()
    project.run("dvc", "exp", "apply", "longer")
    check_recorded(project, 31)
    assert (run_of_model(project).info.run_name or "").startswith("longer: ")


@pytest.mark.parametrize("steps", [(8, 12), pytest.param((8, 12, 16, 20, 24), marks=pytest.mark.long)], ids=len)
def test_queued_values_are_runs_with_curves_that_compare_draws(project: Project, steps: tuple[int, ...]) -> None:
    project.git("commit", "-qam", "settings")
    before = (project.folder / "params.yaml").read_text(encoding="utf-8")
    said = project.run(
        "gpt", "experiment", "-S", f"train.max_steps={','.join(map(str, steps))}", "--name", "n", "--queue"
    )
    assert said.count("Queued experiment") == len(steps)
    names = [f"n-{number}" for number in range(1, len(steps) + 1)]
    said = project.run("gpt", "experiment", "--run-all")
    assert f"  gpt compare HEAD {' '.join(names)}" in said.splitlines()
    assert (project.folder / "params.yaml").read_text(encoding="utf-8") == before, "the folder stays as it is"

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("shakespeare-gpt")
    assert experiment
    runs = {run.data.tags["dvc.experiment"]: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == names
    for name, count in zip(names, steps, strict=True):
        run = runs[name]
        assert run.info.status == "FINISHED"
        assert run.data.params["train.max_steps"] == str(count)
        for curve in ("train/loss", "validation/bits_per_byte"):
            assert max(point.step for point in client.get_metric_history(run.info.run_id, curve)) == count
        patch = project.git("diff", "-U0", "HEAD", commit_of(project, name), "--", "params.yaml")
        assert [line for line in patch.splitlines() if re.match(r"[-+][^-+]", line)] == [
            "-  max_steps: 30", f"+  max_steps: {count}",
        ], "one line"  # fmt: skip

    found = json.loads(project.run("gpt", "compare", *names, "--json"))
    assert found["settings"] == {"train.max_steps": dict(zip(names, map(str, steps), strict=True))}
    for name in names:
        shown = {key: value for key, value in runs[name].data.metrics.items() if "/" not in key}
        assert {key: each["values"][name] for key, each in found["figures"].items()} == shown, "as MLflow has them"
    picture = (project.folder / paths.COMPARE / "curves.svg").read_text(encoding="utf-8")
    assert all(f">{name}<" in picture for name in names)
    by_run = json.loads(project.run("gpt", "compare", names[0], runs[names[0]].info.run_id, "--json"))
    assert by_run["settings"] == {}, "an experiment and its run have the same settings"


def commit_of(project: Project, name: str) -> str:
    """The commit that DVC keeps an experiment in."""
    listed = project.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    return next(line.split()[1] for line in listed if line.split()[0].endswith(f"/{name}"))


def test_a_queued_experiment_that_was_killed_goes_on_from_its_checkpoint(project: Project) -> None:
    slow = ["-S", "train.max_steps=300", "-S", "train.checkpoint_interval=5"]
    first = subprocess.Popen(
        [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", "killed", *slow],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not list(project.folder.glob("checkpoints/*/step_*")):
            assert first.poll() is None
            time.sleep(0.1)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    project.run("dvc", "exp", "run", "--queue", "--name", "again", *slow)
    project.run("dvc", "queue", "start")
    deadline = time.monotonic() + 500
    while "Success" not in (status := project.run("dvc", "queue", "status")):
        assert "Failed" not in status, project.run("dvc", "queue", "logs", "again")
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert "resuming after step" in project.run("dvc", "queue", "logs", "again")
    project.run("dvc", "exp", "apply", "again")
    check_recorded(project, 300)


def test_an_experiment_that_is_told_to_stop_saves_and_leaves_nothing_running(project: Project) -> None:
    process = project.start("gpt", "experiment", "-S", "train.max_steps=100000", "--name", "endless")
    while not list(project.folder.glob("checkpoints/*/step_*")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # gpt alone gets it, as of a service manager
    output, _ = process.communicate(timeout=120)  # until the last of its children has closed its output
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in output
    assert "next:" not in output
