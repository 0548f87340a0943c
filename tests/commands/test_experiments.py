"""`gpt experiment` refuses what DVC would fail of later, in one message, before DVC starts: projects here have no DVC at all."""

import subprocess
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from gpt.commands.main import COMMANDS, main
from gpt.files import sha256_file
from gpt.params.project import load_params
from tests.conftest import small_change, write_params


def make(folder: Path, *, commit: bool = True) -> Path:
    """Make a project in a git repository."""
    folder.mkdir()
    (folder / "text.jsonl").touch()
    write_params(folder, small_change(folder / "text.jsonl"))
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    commands = (["init", "-q"], ["add", "-A"], ["commit", "-qm", "begin"])
    for command in commands if commit else commands[:1]:
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    return folder


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "key": (
        ("-S", "train.max_step=5"),
        "params.yaml: train.max_step is not a known key; did you mean train.max_steps?",
    ),
    "value": (
        ("-S", "train.max_steps=0"),
        "params.yaml: train: max_steps = 0: a model from scratch needs training; raise it, or name weights in init_from",
    ),
    "form": (("-S", "train.max_steps"), "-S train.max_steps: write KEY=VALUE, as in train.max_steps=50"),
    "several": (
        ("-S", "train.max_steps=5,6"),
        "-S: makes 2 experiments, and a folder holds one; add --queue, then `gpt experiment --run-all`",
    ),
    "queue and temp": (("--queue", "--temp"), "--queue, --temp: give one; what is queued runs in a copy, too"),
    "run all": (
        ("--run-all", "-S", "a=1"),
        "--run-all: runs what was queued before; leave out -S, --name, --queue and --temp",
    ),
    "jobs": (("--jobs", "2"), "--jobs: goes with --run-all, which runs several experiments"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_allowed_is_one_message_and_nothing_changes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    project = make(tmp_path / "project")
    monkeypatch.chdir(project)
    before = sha256_file(project / "params.yaml")
    assert main(["experiment", *options]) == 2
    assert capfd.readouterr().err == f"error: {message}\n"
    assert sha256_file(project / "params.yaml") == before


@pytest.mark.parametrize("option", ["--queue", "--temp", "--run-all"])
def test_a_folder_that_dvc_cannot_copy_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    monkeypatch.chdir(make(tmp_path / "prüfung"))
    assert main(["experiment", option]) == 2
    error = capfd.readouterr().err
    assert "DVC cannot copy a folder whose path is not ASCII" in error
    assert "or run experiments in this folder, without these options" in error
    assert error.count("error: ") == 1


def test_without_a_commit_or_a_repository_it_says_what_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make(tmp_path / "begun", commit=False))
    assert main(["experiment"]) == 2
    assert "has no commit that an experiment could begin from; `git add -A && git commit" in capfd.readouterr().err
    project = tmp_path / "bare"
    project.mkdir()
    (project / "text.jsonl").touch()
    write_params(project, small_change(project / "text.jsonl"))
    monkeypatch.chdir(project)
    assert main(["experiment"]) == 2
    assert "not a git repository" in capfd.readouterr().err


def test_what_dvc_says_is_seen_and_its_failure_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make(tmp_path / "project"))
    assert main(["experiment", "-S", "train.max_steps=5"]) == 1
    said = capfd.readouterr()
    assert "you are not inside of a DVC repository" in said.err
    assert "next:" not in said.out


def complete(*words: str) -> list[str]:
    """Return what a shell offers for the last word."""
    *before, last = words
    return [item.value for item in ShellComplete(COMMANDS, {}, "gpt", "_GPT_COMPLETE").get_completions(before, last)]


def test_a_shell_completes_settings_and_the_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make(tmp_path / "project")
    monkeypatch.chdir(project)
    assert complete("experiment", "-S", "train.max_s") == ["train.max_skips=", "train.max_steps="]
    assert complete("experiment", "-S", "launc") == [f"launch.{key}=" for key in load_params().section("launch")]
    subprocess.run(["git", "tag", "before"], cwd=project, check=True)
    assert complete("compare", "HEAD", "bef") == ["before"]
    assert complete("compare", "work") == ["workspace"]
    monkeypatch.chdir(tmp_path)
    assert complete("compare", "") == ["workspace"], "outside a repository there is no other"
    assert complete("experiment", "-S", "train") == []
