"""Runs that were cut off go on, runs that wait do not pile up, and what Prefect says of each is true: on its server and worker."""

import shutil
import signal
import sqlite3
import subprocess
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.server import free_port
from tests.flows.conftest import ENDLESS, REPOSITORY, Api, Project
from tests.flows.test_schedule import address, trigger
from tests.living import is_alive, variables_of

WaitFor = Callable[..., Any]
TRIGGERS = 20


@pytest.fixture
def home(project: Project, api: Api, tmp_path: Path) -> Path:
    """Where the project's own server of Prefect keeps what it knows."""
    home = tmp_path / "own"
    api.copy_database(home)
    shutil.copy(REPOSITORY / "prefect.yaml", project.root)
    shutil.copytree(REPOSITORY / "flows", project.root / "flows")
    project.env |= {"PREFECT_API_URL": "", "PREFECT_HOME": str(home), "PREFECT_WORKER_QUERY_SECONDS": "2"}
    return home


@pytest.fixture
def started(home: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """What was started with `make schedule`; it is stopped in the end, and nothing may be left."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        stop(process)
    assert not processes_of(home)


@pytest.fixture
def schedule(project: Project, home: Path, started: list["subprocess.Popen[str]"]) -> Callable[[], Api]:
    """Return a function that starts `make schedule` and returns its server."""

    def start() -> Api:
        started.append(project.start("-m", "infra.schedule"))
        return Api(address(started[-1]), home)

    return start


def stop(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)


def processes_of(home: Path) -> list[psutil.Process]:
    found = [process for process in psutil.process_iter() if variables_of(process).get("PREFECT_HOME") == str(home)]
    return [process for process in found if is_alive(process)]


def runs(server: Api, **filters: Any) -> list[dict[str, Any]]:
    return server.post("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 50} | filters)


def ask_for(server: Api, deployment: str) -> bool:
    """Create a run now; return False if the server's sqlite was busy and it says to try again."""
    try:
        server.post(f"deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return False
    return True


def run_of(server: Api, number: str) -> dict[str, Any]:
    (found,) = runs(server, flow_runs={"id": {"any_": [number]}})
    return found


@pytest.mark.slow
def test_a_run_whose_processes_were_all_killed_goes_on_as_the_same_run(
    project: Project, home: Path, schedule: Callable[[], Api], wait_for: WaitFor
) -> None:
    project.break_stage("pretrain", ENDLESS)
    server = schedule()
    number = trigger(project, server.url)
    wait_for((project.root / "training").exists, seconds=120)
    everything = processes_of(home)
    for process in everything:
        process.suspend()  # so that none sees the end of another
    for process in everything:
        process.kill()
    (project.root / "pretrain.broken").unlink()

    server = schedule()
    assert run_of(server, number)["state_type"] == "RUNNING", "as Prefect believes for ever"
    wait_for(lambda: run_of(server, number)["state_type"] == "COMPLETED", seconds=180)
    assert run_of(server, number)["run_count"] == 2
    assert not (project.root / "saved").exists()
    tasks = server.post("task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [number]}}, "limit": 50})
    states = sorted(task["state"]["name"] for task in tasks if task["name"] == "pretrain")
    assert states == ["Completed", "Crashed"], "of the attempt that ended, and of the one that was killed"


@pytest.mark.slow
def test_of_runs_that_wait_the_newest_does_the_work_and_a_cancelled_one_says_what_was_saved(
    project: Project, schedule: Callable[[], Api], wait_for: WaitFor
) -> None:
    project.break_stage("pretrain", ENDLESS)
    (project.root / "checkpoints" / "abc" / "step_00000009").mkdir(parents=True)  # another run's, earlier
    server = schedule()
    first = trigger(project, server.url)
    wait_for((project.root / "training").exists, seconds=120)
    (project.root / "checkpoints" / "abc" / "step_00000007").mkdir()
    (deployment,) = {run["deployment_id"] for run in runs(server) if run["id"] == first}
    for _ in range(TRIGGERS):
        wait_for(lambda: ask_for(server, deployment))

    def waiting() -> list[dict[str, Any]]:
        due = [
            run
            for run in runs(server)
            if run["created"] > run_of(server, first)["created"] and not run["auto_scheduled"]
        ]
        return [run for run in due if run["state_type"] == "SCHEDULED"]

    wait_for(lambda: len(waiting()) == 1 and "waits for" in (waiting()[0]["state"]["message"] or ""), seconds=60)
    (last,) = waiting()
    assert last["state"]["message"] == f"waits for {run_of(server, first)['name']}, which runs in this workspace"
    cancelled = [run for run in runs(server) if run["state_type"] == "CANCELLED"]
    assert len(cancelled) == TRIGGERS - 1
    assert all(run["state"]["message"].endswith(", asked for later, does its work") for run in cancelled)

    (project.root / "pretrain.broken").unlink()
    server.post(f"flow_runs/{first}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    wait_for(lambda: run_of(server, first)["state"]["message"] == "cancelled; saved at step 7", seconds=60)
    assert run_of(server, first)["state_type"] == "CANCELLED"
    assert (project.root / "saved").exists()
    tasks = server.post("task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [first]}}, "limit": 50})
    assert next(task["state"]["name"] for task in tasks if task["name"] == "pretrain") == "Stopped"
    wait_for(lambda: run_of(server, last["id"])["state_type"] == "COMPLETED", seconds=120)


@pytest.mark.parametrize("command", [("flows.deploy",), ("flows.keeper", "--once")], ids=["deploy", "keeper"])
def test_without_a_server_it_is_one_line(project: Project, tmp_path: Path, command: tuple[str, ...]) -> None:
    shutil.copy(REPOSITORY / "prefect.yaml", project.root)
    done = project.run("-m", *command, PREFECT_API_URL="", PREFECT_HOME=str(tmp_path / "own"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: PREFECT_API_URL names no server")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.long
def test_a_run_that_ends_with_its_worker_is_not_left_running(
    project: Project, home: Path, started: list["subprocess.Popen[str]"], schedule: Callable[[], Api], wait_for: WaitFor
) -> None:
    """And it goes on with the next worker."""
    project.break_stage("pretrain", ENDLESS)
    server = schedule()
    number = trigger(project, server.url)
    wait_for((project.root / "training").exists, seconds=120)
    stop(started[-1])
    assert (project.root / "saved").exists()
    (project.root / "pretrain.broken").unlink()
    with sqlite3.connect(home / "prefect.db") as database:
        (state,) = database.execute("SELECT state_name FROM flow_run WHERE run_count > 0").fetchone()
    assert state == "AwaitingRetry"
    server = schedule()
    wait_for(lambda: run_of(server, number)["state_type"] == "COMPLETED", seconds=180)
    assert run_of(server, number)["run_count"] == 2


def test_a_server_that_is_away_is_one_line_of_the_keeper(project: Project) -> None:
    done = project.run("-m", "flows.keeper", "--once", PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api")
    assert done.returncode == 2
    assert "no Prefect server answers" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
