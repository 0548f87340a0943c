"""`gpt init` leaves a whole project or none, at whichever moment it is killed, and what is left is in nobody's way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import git
from gpt.commands.main import main
from tests import ROOT
from tests.projects.test_create import somebody

__all__ = ["somebody"]

FILES = {".dvc", ".dvcignore", ".git", ".gitignore", "README.md", "dvc.yaml", "params.yaml", "prefect.yaml"}
# Forks of itself that kill themselves before they rename something, or start git, for the n-th time, n = 1, 2, …, until one ends.
KILLED_EVERYWHERE = """
import json, os, signal, sys
from pathlib import Path
from gpt.commands.main import main

MOMENTS = {"os.rename", "os.rmdir", "subprocess.Popen"}

def die_at(moment):
    seen = 0
    def hook(event, _):
        nonlocal seen
        if event not in MOMENTS:
            return
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

import gpt.projects.create  # once for all forks
moment, seen = 0, []
while not seen or seen[-1][0] == -signal.SIGKILL:
    moment += 1
    pid = os.fork()
    if not pid:
        die_at(moment)
        os._exit(main(["init", *sys.argv[1:]]))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seen.append([code, sorted(os.listdir("project")) if Path("project").exists() else []])
print()
print(json.dumps(seen))
"""


def kill_everywhere(*arguments: str) -> list[tuple[int, list[str]]]:
    """Kill `gpt init` at each of its moments, again and again; return exit codes, and what the folder held after each."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED_EVERYWHERE, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


def assert_whole(*also: str) -> None:
    assert {path.name for path in Path("project").iterdir()} == FILES | set(also)
    assert git.ask(Path("project"), "status", "--porcelain") == b""
    assert git.ask(Path("project"), "log", "--format=%s") == b"Begin, by gpt init\n"
    assert [path.name for path in Path().glob(".*")] == []


def test_a_new_folder_is_there_with_all_or_not_at_all() -> None:
    seen = kill_everywhere("project")
    assert len(seen) > 8
    assert {frozenset(names) for _, names in seen} <= {frozenset(), frozenset(FILES)}
    assert seen[-1][0] in (0, 2)
    assert_whole()


def test_a_folder_that_is_there_becomes_a_project_with_all_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    Path("project/.venv").mkdir(parents=True)
    seen = kill_everywhere("project")
    assert all("params.yaml" not in names or set(names) >= FILES for _, names in seen)
    assert any(FILES & set(names) for _, names in seen[:-1]), "one was killed between two moves"
    assert seen[-1][0] == 2, "the next one finishes that"
    assert_whole(".venv")
    assert main(["init", "project"]) == 2
    assert "is a project already" in capsys.readouterr().err


def test_what_was_killed_between_two_moves_is_finished_unless_a_file_came_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("project/.gpt-init").mkdir(parents=True)
    for name in ("README.md", "params.yaml"):
        Path("project/.gpt-init", name).write_text("ours", encoding="utf-8")
    Path("project/README.md").write_text("mine", encoding="utf-8")
    assert main(["init", "project"]) == 2
    assert "project/README.md: has come into being meanwhile; move it away" in capsys.readouterr().err
    assert Path("project/README.md").read_text(encoding="utf-8") == "mine"
    Path("project/README.md").unlink()
    assert main(["init", "project"]) == 2
    assert "was killed on its way; it is finished now" in capsys.readouterr().err
    assert sorted(path.name for path in Path("project").iterdir()) == ["README.md", "params.yaml"]
