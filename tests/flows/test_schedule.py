"""`make schedule` for real: a server, the deployment, a worker, a run, and Ctrl-C in the middle of another."""

import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.flows.conftest import ENDLESS, REPOSITORY, Api, Project, alive, tree

WaitFor = Callable[..., Any]


@pytest.mark.slow
def test_deployed_flow_completes_and_ctrl_c_stops_everything(
    project: Project, api: Api, tmp_path: Path, wait_for: WaitFor
) -> None:
    home = tmp_path / "own"
    api.copy_database(home)
    shutil.copy(REPOSITORY / "prefect.yaml", project.root)
    shutil.copytree(REPOSITORY / "flows", project.root / "flows")
    project.env |= {"PREFECT_API_URL": "", "PREFECT_HOME": str(home)}
    schedule = project.start("-m", "infra.schedule")
    try:
        url = address(schedule)
        run = trigger(project, url)
        wait_for(lambda: state_of(url, run) in ("COMPLETED", "FAILED", "CRASHED"), seconds=120)
        assert state_of(url, run) == "COMPLETED"
        due = {"flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}}}
        wait_for(lambda: Api(url, home).post("flow_runs/count", due), seconds=60)  # those of the nights to come
        assert (project.root / "reports" / "samples.json").exists()

        project.break_stage("fetch", ENDLESS)
        shutil.rmtree(project.root / "data")
        shutil.rmtree(project.root / ".dvc" / "cache")
        trigger(project, url)
        wait_for((project.root / "training").exists, seconds=120)
        below = tree(schedule)
    finally:
        schedule.send_signal(signal.SIGINT)
        schedule.communicate(timeout=90)
    assert schedule.returncode == 0
    assert alive(below) == []
    assert (project.root / "saved").exists()
    assert not [process for process in psutil.process_iter(["environ"]) if str(home) in str(process.info["environ"])]


def address(schedule: "subprocess.Popen[str]") -> str:
    """Read on until the worker is about to start; return the API's address."""
    assert schedule.stdout is not None
    for line in schedule.stdout:
        assert "prefect worker start" not in line and "separate terminal" not in line, "it starts the worker itself"
        if "PREFECT_API_URL=" in line:
            return line.split("PREFECT_API_URL=")[1].strip()
    raise AssertionError(f"it ended with {schedule.wait()}")


def trigger(project: Project, url: str) -> str:
    command = ("-m", "prefect", "deployment", "run", "pretrain/nightly")
    started = project.run(*command, PREFECT_API_URL=url)
    assert started.returncode == 0, started.stderr
    return re.findall(r"UUID: (\S+)", started.stdout)[0]


def state_of(url: str, run: str) -> str:
    (found,) = Api(url, Path()).post("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return found["state_type"]
