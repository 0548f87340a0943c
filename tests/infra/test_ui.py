import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from gpt.tracking.store import experiment_id
from tests import ROOT
from tests.living import command_of


def start(folder: Path, **variables: str) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "infra.ui"],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def answers(address: str) -> bytes:
    """Return the page once the server serves it."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as response:
                return response.read()
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_ui_serves_the_projects_runs_until_it_is_told_to_stop_and_names_their_charts(
    tmp_path: Path, empty_store: Path
) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    identifier = experiment_id(MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), "a study")
    process = start(tmp_path)
    try:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address is not None
        charts = f"{address[0]}#/experiments/{identifier}/runs?workflowType=machine_learning&compareRunsMode=CHART"
        assert process.stdout.readline() == f"  charts of a study: {charts}&viewStateShareKey=training\n"
        assert b"MLflow" in answers(address[0])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.slow
def test_the_databases_password_is_no_argument_of_any_process(tmp_path: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    process = start(
        tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db?timeout=60&password=s3cr3t-of-the-store"
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("MLflow: "))
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address is not None
        assert b"MLflow" in answers(address[0])
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        arguments = [command_of(member) for member in family]
        assert any("mlflow server" in line for line in arguments)
        assert not [line for line in arguments if "s3cr3t" in line]
        with urllib.request.urlopen(f"{address[0]}api/2.0/mlflow/experiments/search?max_results=1") as answer:
            assert b"experiments" in answer.read(), "it serves that very store"
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert "s3cr3t" not in output


def test_a_server_is_named_without_its_password(tmp_path: Path) -> None:
    process = start(tmp_path, MLFLOW_TRACKING_URI="https://me:s3cr3t@mlflow.host:5000")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output == "MLFLOW_TRACKING_URI is a server: open https://mlflow.host:5000\n"


@pytest.mark.slow
def test_the_ui_of_a_moved_project_shows_its_artifacts(tmp_path: Path, empty_store: Path) -> None:
    old, moved = tmp_path / "old", tmp_path / "moved"
    old.mkdir()
    shutil.copyfile(empty_store, old / "mlflow.db")
    client = MlflowClient(f"sqlite:///{old}/mlflow.db")
    run = client.create_run(client.create_experiment("e", artifact_location=(old / "mlartifacts").as_uri()))
    client.log_text(run.info.run_id, "what it wrote", "sample.txt")
    old.rename(moved)
    process = start(moved)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next(found for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        assert answers(f"{address[0]}get-artifact?path=sample.txt&run_uuid={run.info.run_id}") == b"what it wrote"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert not old.exists()


def test_without_a_run_the_ui_says_what_to_do_first(tmp_path: Path) -> None:
    process = start(tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no run has been recorded yet; run `python -m flows.pretrain`" in output
