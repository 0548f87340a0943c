"""A sweep of real trials: each an experiment of DVC and a run of MLflow, once each, whatever is killed."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.e2e.conftest import PATIENCE_SECONDS, Project

pytestmark = pytest.mark.slow

SWEEP = """\
method: random
trials: {trials}
seed: 1
metric: validation_bits_per_byte
direction: minimize
parameters:
  train.learning_rate: {{low: 0.0001, high: 0.03, log: true}}
  train.beta1: {{values: [0.8, 0.9]}}
overrides:
  train.max_steps: {steps}
  train.eval_interval: 20
pruner: {{kind: none}}
"""


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    project = make_project()
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        project.git("config", key, value)
    return project


def add_sweep(project: Project, name: str, text: str) -> None:
    folder = project.folder / "sweeps"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    project.git("add", "-A")
    project.git("commit", "-qm", "a sweep")


def experiments(project: Project) -> dict[str, str]:
    """The commit of each experiment of DVC, by its name."""
    listed = project.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    return {line.split()[0].rpartition("/")[2]: line.split()[1] for line in listed}


def children(project: Project, name: str) -> tuple[Run, dict[str, Run]]:
    """The run of the sweep, and the runs below it by the experiment of DVC that each is."""
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("shakespeare-gpt")
    assert experiment
    (parent,) = client.search_runs(
        [experiment.experiment_id], f"tags.`gpt.sweep.id` != '' and tags.`gpt.sweep` = '{name}'"
    )
    found = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=1000
    )
    named = {run.data.tags["dvc.experiment"]: run for run in found}
    assert len(named) == len(found), "one run each"
    return parent, named


def shown(project: Project, name: str) -> list[dict[str, Any]]:
    return json.loads(project.run("gpt", "sweep", "show", name, "--json"))["trials"]


def check_they_agree(project: Project, name: str, trials: list[dict[str, Any]]) -> None:
    """DVC, MLflow and the table say the same of every trial."""
    commits, (parent, runs) = experiments(project), children(project, name)
    assert sorted(commits) == sorted(runs) == [trial["experiment"] for trial in trials]
    assert parent.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    for trial in trials:
        run, commit = runs[trial["experiment"]], commits[trial["experiment"]]
        assert (trial["commit"], trial["run_id"]) == (commit, run.info.run_id)
        assert run.info.status == {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[trial["state"]]
        text = project.git("show", f"{commit}:params.yaml")
        for key, value in trial["params"].items():
            assert run.data.params[key] == str(value)
            assert re.search(rf"^  {key.rpartition('.')[2]}: {re.escape(str(value))}\b", text, re.MULTILINE), (
                key,
                value,
            )
        history = client.get_metric_history(run.info.run_id, "validation/bits_per_byte")
        assert [[point.step, point.value] for point in history] == trial["curve"], "each validation once"
        if trial["state"] == "complete":
            rows = project.git("show", f"{commit}:plots/validation.csv").splitlines()
            assert float(rows[-1].split(",")[2]) == trial["value"] == trial["curve"][-1][1]


def started(project: Project, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "gpt", "sweep", "run", *arguments]
    return subprocess.Popen(
        command, cwd=project.folder, env=project.environment, stdout=subprocess.DEVNULL, start_new_session=True
    )


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def states(project: Project, name: str) -> Counter[str]:
    """How many trials are in which state, by their files."""
    files = (project.folder / ".cache/sweeps" / name).glob("trial_*.json")
    return Counter(json.loads(path.read_text(encoding="utf-8"))["state"] for path in files)


def logs(project: Project, name: str) -> list[str]:
    files = sorted((project.folder / ".cache/sweeps" / name).glob("trial_*.log"))
    return [path.read_text(encoding="utf-8") for path in files]


@pytest.mark.parametrize("count", [4, pytest.param(12, marks=pytest.mark.long)])
def test_all_killed_half_way_each_trial_is_done_once(project: Project, count: int) -> None:
    """`kill -9` of everything at once: both workers, what they own, and the trainers."""
    add_sweep(project, "bar", SWEEP.format(trials=count, steps=100))
    first = started(project, "bar", "--workers", "2")
    try:
        wait_until(
            lambda: (
                states(project, "bar")["complete"] >= count // 2 - 1
                and states(project, "bar")["running"] == 2
                and list(project.folder.glob("checkpoints/*/step_*"))
            ),
            first,
        )
    finally:
        main = psutil.Process(first.pid)
        main.suspend()  # or it could start another worker meanwhile
        family = [main, *main.children(recursive=True)]
        assert sum("gpt.sweeps.workers" in " ".join(each.cmdline()) for each in family) == 2
        for each in family:
            each.kill()
        first.wait()
        psutil.wait_procs(family[1:], timeout=60)
    before = {path: path.read_bytes() for path in (project.folder / ".cache/sweeps/bar").glob("trial_*.json")}
    ended = {path: text for path, text in before.items() if json.loads(text)["state"] == "complete"}
    cut_short = sum(json.loads(text)["state"] == "running" for text in before.values())

    second = started(project, "bar")  # twice, with a worker each: the two share what is left
    said = project.run("gpt", "sweep", "run", "bar")
    assert second.wait(timeout=PATIENCE_SECONDS) == 0
    assert f"{count} complete" in said
    here = len(re.findall(r"^trial \d+ of bar: (?:begins|goes on)$", said, re.MULTILINE))
    assert 0 < here < count - len(ended), "each did some"
    trials = shown(project, "bar")
    assert len(trials) == count
    check_they_agree(project, "bar", trials)
    for path, text in ended.items():
        now = json.loads(path.read_text(encoding="utf-8"))
        assert {**json.loads(text), "commit": now["commit"], "run": now["run"]} == now, "what had ended stays"
    assert sum(trial["starts"] - 1 for trial in trials) == cut_short
    told = "".join(logs(project, "bar"))
    assert told.count("Running stage 'prepare'") == told.count("Running stage 'tokenize'") == 1, "data were made once"
    assert told.count("Running stage 'pretrain'") <= count + cut_short
    assert "resuming after step" in told
    assert not list((project.folder / ".dvc/tmp/exps/sweeps/bar").iterdir()), "no copy is left"
    assert not project.git("status", "--porcelain"), "the folder is as it was"

    again = project.run("gpt", "sweep", "run", "bar")
    assert shown(project, "bar") == trials, again


def test_a_stopped_sweep_saves_and_leaves_nothing_running(project: Project) -> None:
    add_sweep(project, "slow", SWEEP.format(trials=2, steps=100_000))
    process = started(project, "slow", "--workers", "1")
    wait_until(lambda: list(project.folder.glob("checkpoints/*/step_*")), process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert "stopped by SIGTERM after step" in logs(project, "slow")[0]
    assert shown(project, "slow")[0]["state"] == "stopped"


def test_a_hopeless_trial_is_pruned(project: Project) -> None:
    """Two good learning rates, then one that moves nothing."""
    text = SWEEP.format(trials=0, steps=60).replace("random", "grid")
    text = re.sub(r"parameters:.*overrides", "parameters:\n  train.learning_rate: {values: [0.01, 0.02, 0.0000001]}\noverrides",
                  text, flags=re.DOTALL)  # fmt: skip
    text = text.replace("{kind: none}", "{kind: median, startup_trials: 2, warmup_steps: 20}")
    add_sweep(project, "prune", text)
    said = project.run("gpt", "sweep", "run", "prune")
    trials = shown(project, "prune")
    assert [trial["state"] for trial in trials] == ["complete", "complete", "pruned"], said
    check_they_agree(project, "prune", trials)
    assert trials[2]["steps"] == 20
    assert "worse than the median" in trials[2]["reason"]
    assert "after step 20" in trials[2]["reason"]
    assert "stopped by SIGTERM after step" in logs(project, "prune")[2], "it saved: who wants to may go on"
    page = (project.folder / "reports/sweeps/prune.html").read_text(encoding="utf-8")
    assert "worse than the median" in page


def test_a_trial_that_fails_says_why_and_runs_again_when_asked(project: Project) -> None:
    """Beside an MLflow that is away: it is told what it missed."""
    add_sweep(project, "broken", SWEEP.format(trials=1, steps=20))
    source, aside = project.folder.parent / "text.jsonl", project.folder.parent / "aside"
    source.rename(aside)
    said = project.run("gpt", "sweep", "run", "broken", exit_code=1)
    (trial,) = shown(project, "broken")
    assert trial["state"] == "failed"
    assert "text.jsonl" in trial["reason"]
    assert trial["reason"] in said
    check_they_agree(project, "broken", [trial])
    assert project.run("gpt", "sweep", "run", "broken", exit_code=1).count("begins") == 0, "once, unless somebody asks"
    aside.rename(source)
    away = replace(project, environment=project.environment | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert "the sweep goes on" in away.run("gpt", "sweep", "run", "broken", "--retry-failed")
    (trial,) = shown(project, "broken")
    assert (trial["state"], trial["run_id"], trial["starts"]) == ("complete", None, 2)
    project.run("gpt", "sweep", "run", "broken")
    (trial,) = shown(project, "broken")
    assert trial["starts"] == 2, "nothing was trained for it"
    check_they_agree(project, "broken", [trial])
    told = project.run("gpt", "sweep", "log", "broken", "1")
    assert told.count("--- broken-001, start") == 2
    project.run("gpt", "sweep", "apply", "broken")
    lines = project.git("diff", "-U0", "params.yaml").splitlines()
    changed = [line.split()[1] for line in lines if re.match(r"\+[^+]", line)]
    assert set(changed) <= {"learning_rate:", "beta1:"}, "two lines at most, comments and all else as they were"
    assert project.params()["train"]["learning_rate"] == trial["params"]["train.learning_rate"]
