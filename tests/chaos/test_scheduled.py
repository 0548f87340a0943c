"""Faults while a scheduled run trains, on the servers of `make up`: it goes on by itself and ends with the same bytes."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from infra.servers.place import Settings
from tests.e2e.conftest import Project, build_project
from tests.flows.conftest import Api
from tests.infra.conftest import choose_ports, processes_of, server_of, settings_of
from tests.living import is_alive

pytestmark = pytest.mark.long
TIMES = 3
AWAY_SECONDS = 60
PATIENCE_SECONDS = 600


class Stack:
    """A project whose servers run, and the weights that it ends with when nothing happens."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.run("infra.servers", "up")
        self.api = Api(self.settings.prefect, project.folder)
        self.deployment = self.api.post("deployments/filter", {"deployments": {"name": {"any_": ["nightly"]}}})[0]["id"]
        self.wait_for_end(self.trigger())
        self.weights = project.weights()

    @property
    def settings(self) -> Settings:
        return settings_of(self.project)

    def trigger(self) -> str:
        return self.api.post(f"deployments/{self.deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]

    def run(self, number: str) -> dict[str, Any]:
        (found,) = self.api.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [number]}}})
        return found

    def state(self, number: str) -> str:
        """The state of a run; empty while the server is away."""
        try:
            return self.run(number)["state_type"]
        except OSError:
            return ""

    def wait_for_end(self, number: str, state: str = "COMPLETED") -> None:
        wait_for(lambda: self.state(number) in (state, "FAILED", "COMPLETED", "CANCELLED") and self.state(number))
        assert self.state(number) == state, self.run(number)["state"]

    def forget_training(self) -> None:
        """Remove what training made, also from DVC's cache, so that it is made again."""
        folder = self.project.folder
        lock = yaml.safe_load((folder / "dvc.lock").read_text())
        for out in lock["stages"]["pretrain"]["outs"]:
            path, digest = folder / out["path"], out["md5"]
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            (folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink(missing_ok=True)
        shutil.rmtree(folder / ".dvc/cache/runs", ignore_errors=True)
        shutil.rmtree(folder / "checkpoints")

    def begin_to_train(self, instants: random.Random) -> str:
        """Trigger a run and return its number, at a random instant of its training."""
        self.forget_training()
        number = self.trigger()
        wait_for(lambda: [*(self.project.folder / "checkpoints").glob("*/step_*")])
        time.sleep(instants.uniform(0, 5))
        return number


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Stack]:
    top = tmp_path_factory.mktemp("faults")
    project = build_project(top, top / "prefect", empty_store, "a team's, ü")
    project.environment.pop("PREFECT_HOME")
    choose_ports(project)
    project.change(train={"max_steps": 1500, "checkpoint_interval": 20})
    try:
        yield Stack(project)
    finally:
        project.run("infra.servers", "down")
        assert processes_of(project) == []


def kill(name: str) -> Callable[[Stack], None]:
    return lambda stack: server_of(stack.project, name).kill()


def take_postgres_away(stack: Stack) -> None:
    """Stop all of its processes for a minute: it takes connections and does not answer."""
    process = server_of(stack.project, "postgres")
    family = [process, *process.children(recursive=True)]
    for each in family:
        each.suspend()
    time.sleep(AWAY_SECONDS)
    for each in family:
        each.resume()


def kill_everything(stack: Stack) -> None:
    everything = processes_of(stack.project)
    for process in everything:
        process.suspend()  # so that none sees the end of another
    for process in everything:
        process.kill()
    psutil.wait_procs(everything, timeout=60)
    stack.project.run("infra.servers", "up")


FAULTS: dict[str, Callable[[Stack], None]] = {
    "the worker is killed": kill("worker"),
    "Prefect is killed": kill("prefect"),
    "MLflow is killed": kill("mlflow"),
    "PostgreSQL is killed": kill("postgres"),
    "PostgreSQL hangs for a minute": take_postgres_away,
    "everything is killed, then make up": kill_everything,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_goes_on_by_itself_and_ends_with_the_same_weights(
    stack: Stack, fault: str, instants: random.Random
) -> None:
    for _ in range(TIMES):
        number = stack.begin_to_train(instants)
        FAULTS[fault](stack)
        stack.wait_for_end(number)
        assert stack.project.weights() == stack.weights
        assert trainers(stack) == []


def test_a_cancelled_run_says_what_it_saved_and_the_next_goes_on_from_there(
    stack: Stack, instants: random.Random
) -> None:
    for _ in range(TIMES):
        number = stack.begin_to_train(instants)
        below = trainers(stack)
        assert below
        state = {"type": "CANCELLING", "name": "Cancelling"}
        stack.api.post(f"flow_runs/{number}/set_state", {"state": state})
        stack.wait_for_end(number, "CANCELLED")
        assert not any(is_alive(process) for process in below)
        wait_for(lambda: (stack.run(number)["state"]["message"] or "").startswith("cancelled; saved at step "))  # noqa: B023
        after = stack.trigger()
        stack.wait_for_end(after)
        assert stack.project.weights() == stack.weights


def trainers(stack: Stack) -> list[psutil.Process]:
    found = []
    for process in processes_of(stack.project):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "pretrain" in words and any(Path(word).name == "gpt" for word in words):
            found.append(process)
    return found
