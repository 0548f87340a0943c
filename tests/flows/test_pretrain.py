"""`python -m flows.pretrain` as a user meets it: real Prefect, real DVC, stages that are stubs."""

import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.pipeline import STAGES
from flows.server import free_port
from tests.flows.conftest import ENDLESS, Api, Project, alive, tree
from tests.living import command_of, variables_of

WaitFor = Callable[[Callable[[], Any]], Any]
FLOW = ("-m", "flows.pretrain")


def last_flow_run(api: Api) -> dict[str, Any]:
    return api.post("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]


def task_states(api: Api, run: dict[str, Any]) -> dict[str, str]:
    tasks = api.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    return {task["name"]: task["state"]["name"] for task in tasks}


def artifacts(api: Api, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = api.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    return {artifact["key"]: artifact for artifact in found}


def test_one_command_goes_from_sources_to_a_registered_version(project: Project, api: Api) -> None:
    done = project.run(*FLOW)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.split("\n") if line and not line.startswith(" ")] == [
        "Held-out",
        "A",
        "Registered",
        "All",
        "What",
    ]
    for said in ("2.1234 bits per byte", "To be│, or not", "models:/tiny/1 (alias candidate)", "gpt promote"):
        assert said in done.stdout
    run = last_flow_run(api)
    assert (run["state"]["name"], run["parameters"]) == ("Completed", {"accept_data": False, "deadline_minutes": None})
    assert task_states(api, run) == dict.fromkeys([*STAGES, "register"], "Completed")
    shown = artifacts(api, run)
    assert '"bits_per_byte": 2.1234' in shown["metrics"]["data"]
    evaluation = shown["evaluation"]["data"]
    assert "| test | 2.1234 | 4.48 | 2 |" in evaluation
    assert "To be, or not" in evaluation
    assert f"`{project.root.resolve()}/reports/evaluate/index.html`" in evaluation
    assert "data:image/png;base64,iVBOR" in shown["loss-curve"]["data"]
    assert "abc123" in shown["mlflow-run"]["data"]
    assert "python -m infra.ui" in shown["mlflow-run"]["data"]


def test_wrong_setting_is_one_message_before_any_work(project: Project) -> None:
    params = project.root / "params.yaml"
    params.write_text(re.sub(r"n_head: \d+", "n_head: 7", params.read_text()))
    done = project.run(*FLOW)
    assert done.returncode == 2
    assert done.stdout == ""
    (message,) = done.stderr.splitlines()
    assert message.startswith("error: params.yaml: model: n_embd (")
    assert message.endswith(") must be divisible by n_head (7)")
    assert not (project.root / "data").exists()


@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [
        pytest.param(
            "sys.exit(print('error: data/raw: empty; add a source', file=sys.stderr) or 2)",
            2,
            "data/raw: empty; add a source",
            marks=pytest.mark.slow,
        ),
        pytest.param("raise RuntimeError('a bug')", 1, "RuntimeError: a bug (exit code 1)", marks=pytest.mark.slow),
    ],
)
def test_failing_stage_ends_the_flow_with_its_own_message(
    project: Project, api: Api, code: str, exit_code: int, message: str
) -> None:
    project.break_stage("prepare", code)
    done = project.run(*FLOW)
    assert done.returncode == exit_code
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == f"error: prepare: {message}"
    run = last_flow_run(api)
    assert (run["state"]["name"], run["state"]["message"]) == ("Failed", f"prepare: {message}")
    assert task_states(api, run) == dict.fromkeys(
        ["inputs", "fetch", "fetch_benchmarks", "fetch_weights"], "Completed"
    ) | {"prepare": "Failed"}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signal_lets_the_trainer_save_and_records_the_crash(
    project: Project, api: Api, wait_for: WaitFor, number: signal.Signals
) -> None:
    project.break_stage("fetch", ENDLESS)
    process = project.start(*FLOW)
    wait_for((project.root / "training").exists)
    below = tree(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert alive(below) == []
    assert (project.root / "saved").exists()
    run = last_flow_run(api)
    assert run["state"]["type"] == "CRASHED"
    assert task_states(api, run) == {"inputs": "Completed", "fetch": "Stopped"}


@pytest.mark.slow
def test_when_no_server_answers_it_brings_its_own_which_keeps_the_record_and_ends_with_it(
    project: Project, api: Api, tmp_path: Path
) -> None:
    home = tmp_path / "own"
    api.copy_database(home)
    project.break_stage("prepare", "sys.exit(1)")
    gone = f"http://127.0.0.1:{free_port()}/api"
    done = project.run(*FLOW, PREFECT_API_URL=gone, PREFECT_HOME=str(home))
    assert done.returncode == 1, done.stderr
    assert f"warning: {gone}: no Prefect server answers" in done.stderr
    assert "View at" not in done.stderr  # it has no UI
    with sqlite3.connect(home / "prefect.db") as database:
        newest = "select id, state_name from flow_run order by created desc limit 1"
        run_id, state = database.execute(newest).fetchone()
        tasks = dict(database.execute("select name, state_name from task_run where flow_run_id = ?", [run_id]))
        (logs,) = database.execute("select count(*) from log where flow_run_id = ?", [run_id]).fetchone()
    assert (state, tasks) == (
        "Failed",
        dict.fromkeys(["inputs", "fetch", "fetch_benchmarks", "fetch_weights"], "Completed") | {"prepare": "Failed"},
    )
    assert logs > 5
    assert not [process for process in psutil.process_iter() if str(home) in str(variables_of(process))]


def test_sigkill_leaves_nothing_running_and_the_next_run_goes_on(
    project: Project, api: Api, tmp_path: Path, wait_for: WaitFor
) -> None:
    project.break_stage("fetch", ENDLESS)
    home = tmp_path / "own"
    api.copy_database(home)
    process = project.start(*FLOW, PREFECT_API_URL="", PREFECT_HOME=str(home))
    wait_for((project.root / "training").exists)
    below = tree(process)
    assert any("flows.server" in command_of(child) for child in below)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not alive(below))
    assert (project.root / "saved").exists()
    (project.root / "fetch.broken").unlink()
    after = project.run("-m", "dvc", "--wait-for-lock", "repro", VIRTUAL_ENV=str(project.python.parents[1]))
    assert after.returncode == 0, after.stderr
    assert (project.root / "reports" / "evaluate" / "out.txt").exists()
