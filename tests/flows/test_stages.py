"""A DVC stage as a Prefect task: what its state says, and when it is tried again."""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.client.schemas import State
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.artifacts import publish
from flows.pipeline import STAGES
from flows.stages import StageError, explain, run_stage
from tests.flows.conftest import REPOSITORY, Api, Project


@pytest.fixture
def folder(project: Project, api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project to work in, with stages of plain shell."""
    stages = {
        "fetch": {"cmd": "sh fetch.sh", "deps": ["fetch.sh"], "outs": ["raw.txt"]},
        "prepare": {"cmd": "cp raw.txt documents.txt", "deps": ["raw.txt"], "outs": ["documents.txt"]},
    }
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (project.root / "fetch.sh").write_text("echo text > raw.txt")
    monkeypatch.chdir(project.root)
    with temporary_settings({PREFECT_API_URL: api.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield project.root


@flow
def one_stage(name: str, retries: int = 2) -> Any:
    stage = run_stage.with_options(retries=retries, retry_delay_seconds=0)
    return (stage(name, return_state=True), "whatever its state")


def run_once(name: str) -> State:
    """The same without a second try."""
    return one_stage(name, retries=0)[0]


def state_of(name: str) -> State:
    """Run one stage in a flow of its own; return the task's state."""
    return one_stage(name)[0]


def test_stages_of_the_flow_are_those_of_dvc_yaml_each_after_its_inputs() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert sorted(STAGES) == sorted(stages)
    maker: dict[str, str] = {}
    for name in STAGES:
        entries = [*stages[name].get("outs", []), *stages[name].get("metrics", []), *stages[name].get("plots", [])]
        maker |= {next(iter(entry)) if isinstance(entry, dict) else entry: name for entry in entries}
    for name in STAGES:
        for dependency in stages[name].get("deps", []):
            if dependency in maker:
                assert STAGES.index(maker[dependency]) < STAGES.index(name)


def test_stage_is_completed_then_cached_then_restored(folder: Path) -> None:
    ran = state_of("fetch")
    assert (ran.type.value, ran.name, ran.message) == ("COMPLETED", "Completed", "Ran")
    unchanged = state_of("fetch")
    assert (unchanged.type.value, unchanged.name, unchanged.message) == ("COMPLETED", "Cached", "Nothing changed")
    (folder / "raw.txt").unlink()
    restored = state_of("fetch")
    assert (restored.name, restored.message) == ("Cached", "Restored from DVC's cache")
    assert (folder / "raw.txt").read_text() == "text\n"


@pytest.mark.slow
def test_of_what_dvc_says_only_its_hints_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    (folder / ".dvc/config").write_text("")  # DVC says what to commit where there is git
    (folder / "fetch.sh").write_text("echo text > raw.txt; echo 'dvc push and git add are a stage'\"'\"'s words too'")
    with caplog.at_level(logging.INFO):
        assert run_once("fetch").message == "Ran"
        (folder / "raw.txt").unlink()
        assert run_once("fetch").message == "Restored from DVC's cache"
        shutil.rmtree(folder / ".dvc")
        assert not run_once("fetch").is_completed()
    for kept in ("Running stage 'fetch'", "a stage's words too", "is cached", "not inside of a DVC repository"):
        assert kept in caplog.text
    for hint in ("To track the changes", "git add dvc.lock", "auto staging", "core.autostage", "Use `dvc push`"):
        assert hint not in caplog.text


def test_what_a_killed_dvc_left_half_written_is_removed(folder: Path) -> None:
    assert run_once("fetch").is_completed()
    rwlock = folder / ".dvc/tmp/rwlock"
    assert rwlock.exists()
    rwlock.write_text('{"/project')
    assert run_once("fetch").is_completed()


def test_fetch_is_tried_three_times_and_a_later_success_counts(folder: Path) -> None:
    (folder / "fetch.sh").write_text("echo . >> tries; test $(wc -l < tries) = 3 && echo text > raw.txt")
    assert state_of("fetch").message == "Ran"
    assert (folder / "tries").read_text() == ".\n" * 3


def test_what_the_user_must_change_is_tried_once_and_told_in_the_stages_words(folder: Path) -> None:
    (folder / "fetch.sh").write_text(
        "echo . >> tries; echo note; echo 'error: raw: wrong hash' >&2; echo 'error: do this' >&2; exit 2"
    )
    state = state_of("fetch")
    assert (state.name, state.message) == ("Failed", "fetch: raw: wrong hash\ndo this")
    error = state.result(raise_on_failure=False)
    assert isinstance(error, StageError)
    assert error.exit_code == 2
    assert (folder / "tries").read_text() == ".\n"


def test_other_stages_are_tried_once(folder: Path) -> None:
    state_of("fetch")
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())
    stages["stages"]["prepare"]["cmd"] = "echo . >> tries; echo RuntimeError: no luck; exit 1"
    (folder / "dvc.yaml").write_text(yaml.safe_dump(stages))
    state = state_of("prepare")
    assert state.message == "prepare: RuntimeError: no luck (exit code 1)"
    assert (folder / "tries").read_text() == ".\n"


def test_what_dvc_itself_refuses_is_told_in_its_words(folder: Path) -> None:
    shutil.rmtree(folder / ".dvc")
    assert "not inside of a DVC repository" in (state_of("prepare").message or "")


def test_stage_that_is_killed_without_a_word_says_by_what(folder: Path) -> None:
    (folder / "fetch.sh").write_text("kill -9 $$")
    assert run_once("fetch").message == "fetch: failed (ended by signal 9, as the kernel does when memory is short)"


@pytest.mark.parametrize("report", ["Killed", "bash: line 1:  4711 Killed                  sh fetch.sh"])
def test_a_shells_own_report_of_a_signal_is_not_the_stages_words(report: str) -> None:
    ended = "ERROR: failed to reproduce 'fetch': failed to run: sh fetch.sh, exited with 137"
    assert (
        str(explain("fetch", 1, [report, ended]))
        == "fetch: failed (ended by signal 9, as the kernel does when memory is short)"
    )
    assert (
        str(explain("fetch", 1, ["half done", report, ended]))
        == "fetch: half done (ended by signal 9, as the kernel does when memory is short)"
    )


def test_artifacts_that_cannot_be_made_fail_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert flow(publish)({}, return_state=True).is_completed()
    for what in ("metrics", "loss curve", "MLflow run"):
        assert f"no artifact for the {what}" in caplog.text
