"""`dvc exp run --temp` and `--queue` run in a copy that DVC deletes: what outlives a run belongs to the project itself."""

import os
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
    project.run("dvc", "exp", "run", "--temp", "-S", "train.max_steps=31", "--name", "longer")
    project.run("dvc", "exp", "apply", "longer")
    check_recorded(project, 31)
    assert (run_of_model(project).info.run_name or "").startswith("longer: ")


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
