"""`gpt doctor --repair`: what killed processes have left is told, put right, and not done a second time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gpt import paths
from gpt.commands.main import main
from gpt.files import write_json
from gpt.maintenance.repair import find
from gpt.params.project import load_params
from gpt.tracking import store
from gpt.tracking.spool import last_event
from tests import ROOT
from tests.flows.conftest import Api, api
from tests.training.conftest import make_project

__all__ = ["api", "make_project"]

RWLOCK = Path(".dvc/tmp/rwlock")
# A trainer that begins a run, tells something that arrives, and is killed.
TRAINER = """
import os, signal, sys
from gpt.tracking.journal import Journal
from gpt.tracking.spool import is_delivered
from pathlib import Path
import time
journal = Journal(Path("spool"), sys.argv[1])
if journal.is_new:
    journal.append("start", experiment="shakespeare-gpt", run=sys.argv[1], fingerprint="0123456789abcdef")
else:
    journal.append("resume")
journal.append("metrics", group="train", step=1, values={"train/loss": 1.0}, time_ms=1_700_000_000_000)
if sys.argv[2] == "told":
    journal.start()
    while not is_delivered(Path("spool", sys.argv[1] + ".jsonl")):
        time.sleep(0.05)
print("told", flush=True)
time.sleep(600)
"""


@pytest.fixture
def project(make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return make_project()


@pytest.fixture
def repair(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Return a function that runs `gpt doctor --repair` and returns its lines."""

    def run(exit_code: int = 0) -> list[str]:
        capsys.readouterr()
        assert main(["doctor", "--repair"]) == exit_code
        return capsys.readouterr().out.splitlines()

    return run


def told() -> list[str]:
    """Return what `gpt doctor` would say of what is not true."""
    return [trouble.text for trouble in find(load_params())]


def start(run: str, how: str = "told") -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, run, how], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "told\n"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def status(run: str) -> str:
    client = store.client()
    experiment = client.get_experiment_by_name("shakespeare-gpt")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], f"tags.`gpt.run` = '{run}'")
    return found.info.status


def test_a_run_whose_trainer_was_killed_is_called_killed_and_one_that_lives_is_left(
    project: Path, repair: Callable[..., list[str]]
) -> None:
    kill(start("killed"))
    living = start("living")
    try:
        assert (status("killed"), status("living")) == ("RUNNING", "RUNNING")
        assert told() == ["run killed: its trainer was killed, and could not say so"]
        assert status("killed") == "RUNNING", "to look changes nothing"
        assert repair() == [
            "✓ MLflow: run killed: KILLED at the last thing it told; it goes on as the same run",
            "✓ spool: 1 journal(s) delivered",
            "All is true now.",
        ]
        assert (status("killed"), status("living")) == ("KILLED", "RUNNING")
        last = last_event(Path("spool/killed.jsonl"))
        assert last and last["time_ms"] == 1_700_000_000_000, "the time of its last word"
        assert repair() == ["Nothing was to be put right."]
        kill(start("killed"))  # it goes on, and is killed again
        assert status("killed") == "RUNNING"
        assert len(repair()) == 3
        assert status("killed") == "KILLED"
    finally:
        kill(living)


@pytest.mark.slow
def test_a_run_of_another_machine_is_left_as_it_is(project: Path, repair: Callable[..., list[str]]) -> None:
    kill(start("elsewhere"))
    state = Path("spool/elsewhere.state")
    values = json.loads(state.read_text())
    write_json(state, values | {"place": f"another-host:{project}/spool"})
    assert told() == []
    assert repair() == ["Nothing was to be put right."]
    assert status("elsewhere") == "RUNNING"
    for path in Path("spool").iterdir():
        path.unlink()  # and one of which nothing is here
    assert [line.partition(",")[0] for line in repair()] == [
        "· MLflow: run elsewhere: is called running",
        "Nothing was to be put right.",
    ]
    assert status("elsewhere") == "RUNNING"
    write_json(state, values)
    lock = Path("checkpoints/0123456789abcdef/lock")
    lock.parent.mkdir(parents=True)
    lock.write_text("process 1 on another-host, since 2026-01-01 00:00:00")
    kill(start("elsewhere"))
    assert repair() == ["Nothing was to be put right."], "its folder was last held by another machine"


def test_what_was_not_delivered_is_and_a_store_that_is_away_is_told(
    project: Path, repair: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(start("waits", "not told"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    lines = repair(exit_code=1)
    assert lines[0].startswith("✓ MLflow: run waits: KILLED")
    assert lines[1].startswith("✗ MLflow: cannot be asked which runs it calls running: http://127.0.0.1:9")
    assert lines[2].startswith("✗ spool: 1 journal(s) wait for the MLflow store; not done: ")
    assert len(lines) == 3
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert repair() == ["✓ spool: 1 journal(s) delivered", "All is true now."]
    assert status("waits") == "KILLED"
    assert repair() == ["Nothing was to be put right."]


@pytest.mark.parametrize("content", ['{"/project', "stale"])
def test_what_killed_dvc_processes_left_is_removed_and_what_a_living_one_holds_is_not(
    project: Path, repair: Callable[..., list[str]], content: str
) -> None:
    RWLOCK.parent.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    holder = {"write": {"/b": {"pid": os.getpid(), "cmd": "dvc repro"}}}
    RWLOCK.write_text(json.dumps(holder))
    assert repair() == ["Nothing was to be put right."] and RWLOCK.exists()
    holder["write"]["/b"]["pid"] = ended.pid
    RWLOCK.write_text(content if content != "stale" else json.dumps(holder))
    assert repair() == [f"✓ DVC: {RWLOCK}: removed", "All is true now."]
    assert not RWLOCK.exists()
    assert repair() == ["Nothing was to be put right."]


def test_outputs_that_dvcs_cache_has_are_told_and_a_lock_that_was_cut_short_is_wrong(
    project: Path, repair: Callable[..., list[str]]
) -> None:
    digest = "0123456789abcdef0123456789abcdef"
    kept = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
    kept.parent.mkdir(parents=True)
    kept.touch()
    outs = [{"path": "models/gone.json", "md5": digest}, {"path": "models/nowhere.json", "md5": "1" * 32}]
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"pretrain": {"outs": outs}}}))
    assert repair()[0] == "· DVC: models/gone.json: not here, and DVC's cache has them; `dvc checkout` brings them"
    Path("dvc.lock").write_text('{"schema": "2.0", "stages": {"pre')
    assert repair(exit_code=1) == ["✗ DVC: dvc.lock: cut short or damaged; `git checkout dvc.lock`, then `dvc repro`"]


def test_prefects_runs_are_left_to_its_keeper_and_one_that_is_away_is_told(
    project: Path, repair: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert told() == [
        "http://127.0.0.1:9/api: `python -m flows.keeper --once` puts right what it says of runs of this folder"
    ]
    (line,) = repair(exit_code=1)
    assert line.startswith("✗ Prefect: http://127.0.0.1:9/api: ") and "; not done: " in line
    assert "no Prefect server" in line or "cannot be asked" in line


@pytest.mark.slow
def test_what_prefect_says_of_a_run_without_a_process_is_put_right_once(
    project: Path, repair: Callable[..., list[str]], api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api.url)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flow = api.post("flows/", {"name": "pretrain"})["id"]
    run = api.post("flow_runs/", {"flow_id": flow, "name": "tonight's", "state": {"type": "CANCELLED"}})["id"]
    lock = Path(".cache/runs", f"{run}.lock")
    lock.parent.mkdir(parents=True)
    lock.touch()  # it began here, and nobody holds it
    assert repair() == [
        "✓ Prefect: tonight's: Cancelled → Cancelled (cancelled; no checkpoint was saved)",
        "All is true now.",
    ]
    assert repair() == ["Nothing was to be put right."]


@pytest.mark.slow
def test_a_trainer_that_was_killed_goes_on_as_the_same_run(
    make_project: Callable[..., Path], repair: Callable[..., list[str]]
) -> None:
    make_project(train={"max_steps": 300, "checkpoint_interval": 5, "eval_interval": 300, "sample_interval": 300})
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gpt", "pretrain"]
    trainer = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (running := unfinished()) or not list(paths.CHECKPOINTS.glob("*/step_*")):
        assert trainer.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    trainer.send_signal(signal.SIGSTOP)  # it lives, and does nothing
    assert repair() == ["Nothing was to be put right."] and unfinished() == running
    trainer.kill()
    trainer.wait()
    assert repair()[-1] == "All is true now." and repair() == ["Nothing was to be put right."]
    client = MlflowClient(store.tracking_uri())
    assert client.get_run(running[0]).info.status == "KILLED"
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    run = client.get_run(running[0])
    assert run.info.status == "FINISHED" and run.data.metrics["train/loss"] > 0
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert int(run.data.tags["resumed_at_step"]) >= 5
    assert repair() == ["Nothing was to be put right."]


def unfinished() -> list[str]:
    from gpt.maintenance import runs

    return [run.run_id for run in runs.unfinished(["shakespeare-gpt"])]
