"""Two flows at once in one workspace, or a flow beside a `dvc repro`: the second says who works, waits, and finds it done."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.stages import explain
from flows.upkeep.workspace import wait_for_others
from tests.flows.conftest import Project

WaitFor = Callable[[Callable[[], Any]], Any]

# A stage that works until the test lets it go on, or has failed before it could.
GATED = """
import time
with open("starts", "a") as file:
    file.write("started\\n")
deadline = time.monotonic() + 120
while not Path("go").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
"""


def starts(project: Project) -> int:
    file = project.root / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_a_second_flow_waits_for_the_first_and_computes_nothing_again(project: Project, wait_for: WaitFor) -> None:
    project.break_stage("prepare", GATED)
    first = project.start("-m", "flows.pretrain")
    wait_for(lambda: starts(project))
    second = project.start("-m", "flows.pretrain")
    assert second.stderr is not None
    said = ""
    while "waits for the flow of process" not in said:
        said += (line := second.stderr.readline())
        assert line, "it ended without a word"
    found = re.search(r"waits for the flow of process (\d+) on \S+, since 20", said)
    assert found
    assert int(found[1]) == first.pid
    (project.root / "go").touch()
    for process in (first, second):
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "Registered" in output
    assert starts(project) == 1


@pytest.mark.slow
def test_a_flow_waits_for_a_repro_that_somebody_started(project: Project, wait_for: WaitFor) -> None:
    project.break_stage("prepare", GATED)
    environment = project.env | {"VIRTUAL_ENV": str(project.python.parents[1])}
    repro = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-q", "prepare"], cwd=project.root, env=environment, text=True
    )
    try:
        wait_for(lambda: starts(project))
        flow = project.start("-m", "flows.pretrain")
        assert flow.stderr is not None
        said = ""
        while f"waits for process {repro.pid}" not in said:
            said += (line := flow.stderr.readline())
            assert line, said
        (project.root / "go").touch()
        _, errors = flow.communicate(timeout=120)
        assert flow.returncode == 0, errors
        assert starts(project) == 1
    finally:
        (project.root / "go").touch()
        repro.wait(timeout=60)


@pytest.mark.slow
def test_a_flow_that_waits_can_be_stopped(project: Project, wait_for: WaitFor) -> None:
    project.break_stage("prepare", GATED)
    first = project.start("-m", "flows.pretrain")
    wait_for(lambda: starts(project))
    second = project.start("-m", "flows.pretrain")
    assert second.stderr is not None
    while "waits for the flow of process" not in (line := second.stderr.readline()):
        assert line
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    assert second.returncode == 130
    (project.root / "go").touch()
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors


@pytest.fixture
def rwlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    return path


def lock_of(pid: int) -> str:
    holder = {"pid": pid, "cmd": "dvc repro"}
    return json.dumps({"read": {"/a": [holder]}, "write": {"/b": holder}})


def test_what_killed_processes_left_is_no_reason_to_wait(rwlock: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    rwlock.write_text(lock_of(ended.pid))
    wait_for_others(pytest.fail)
    assert not rwlock.exists()
    rwlock.write_text(lock_of(os.getpid()))
    before = time.time() - 86400
    os.utime(rwlock, (before, before))  # this process started later: it has the pid of one that ended
    wait_for_others(pytest.fail)
    assert not rwlock.exists()


@pytest.mark.parametrize("text", ["", '{"/project', "[]", '{"write": {"/a": {}}}', '{"read": {"/a": 3}}'])
def test_a_list_of_locks_that_a_kill_cut_short_is_removed(rwlock: Path, text: str) -> None:
    rwlock.write_text(text)
    wait_for_others(pytest.fail)
    assert not rwlock.exists()


def test_an_error_of_dvc_is_told_whole() -> None:
    said = ["ERROR: '/a' is busy, it is being blocked by:", "  (PID 7): dvc repro", "", "If there are none, remove it."]
    assert str(explain("prepare", 1, said)) == "prepare: " + "\n".join(said).removeprefix("ERROR: ")
