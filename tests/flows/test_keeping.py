"""The last lines of a run say what git has not got of it, why, and how to keep it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.keeping import DIFFERS, how_to_keep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a committed run."""
    for name, text in {
        "params.yaml": "base: {}\n",
        "dvc.lock": "one\n",
        "plots/training.csv": "step\n",
        ".dvc/config": "[core]\n    analytics = false\n",
        ".gitignore": "/models\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "run"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True)
    return tmp_path


def add_remote(folder: Path) -> None:
    with (folder / ".dvc/config").open("a") as file:
        file.write("    remote = storage\n['remote \"storage\"']\n    url = /mnt/share\n")


def change_params(folder: Path) -> None:
    (folder / "params.yaml").write_text("base: {seed: 2}\n")


def change_results(folder: Path) -> None:
    (folder / "dvc.lock").write_text("two\n")
    (folder / "plots/training.csv").write_text("step\n1\n")


def change_much_code(folder: Path) -> None:
    (folder / "gpt").mkdir()
    for number in range(9):
        (folder / f"gpt/module_{number}.py").write_text("")


def write_what_is_nobodys(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine\n")
    (folder / "models").mkdir()
    (folder / "models/weights").write_text("bytes\n")


def test_what_the_last_commit_names_needs_nothing(folder: Path) -> None:
    write_what_is_nobodys(folder)
    assert how_to_keep(folder) == ["To keep it       nothing to do: the last commit names these very results"]


def test_with_a_remote_the_bytes_are_pushed(folder: Path) -> None:
    add_remote(folder)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "remote"], cwd=folder
    )
    *_, last = how_to_keep(folder)
    assert last.split()[:2] == ["dvc", "push"]
    assert last.endswith("storage")


@pytest.mark.parametrize(
    ("changes", "why", "left"),
    [
        ([change_results], "another kind of machine", "?? notes.txt\n"),
        ([change_results, change_params], "params.yaml changed too", "?? notes.txt\n"),
        ([change_results, change_much_code], "module_3.py, 5 more changed too", ""),
    ],
)
def test_what_git_has_not_got_is_named_with_its_cause_and_the_command_keeps_it(
    folder: Path, changes: list[Callable[[Path], None]], why: str, left: str
) -> None:
    write_what_is_nobodys(folder)
    for change in changes:
        change(folder)
    lines = how_to_keep(folder)
    assert f"dvc.lock, plots/training.csv {DIFFERS}" in lines[0]
    assert why in lines[1]
    add = lines[2].removeprefix("To keep it").strip().split(" && ")[0]
    subprocess.run(add.split(), cwd=folder, check=True)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "kept"], cwd=folder, check=True
    )
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert status.stdout == left
    assert "nothing to do" in how_to_keep(folder)[0]


def test_a_first_run_that_git_does_not_know_is_named(folder: Path) -> None:
    subprocess.run(["git", "rm", "-rq", "--cached", "dvc.lock", "plots"], cwd=folder, check=True)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "none"], cwd=folder, check=True
    )
    assert f"dvc.lock, plots/training.csv {DIFFERS}" in how_to_keep(folder)[0]


def test_without_git_or_a_commit_nothing_is_said(tmp_path: Path) -> None:
    assert how_to_keep(tmp_path) == []
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert how_to_keep(tmp_path) == []
