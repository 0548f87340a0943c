"""The folder in which a version is made again: at its commit, and nothing of the project is touched."""

import os
import shutil
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc.config import Config

from gpt import locks
from gpt.errors import UserError
from gpt.registry.record import Record
from gpt.registry.reproduction.place import open_place
from gpt.registry.reproduction.trees import FOLDER
from tests.registry.test_lineage import git

URI = "models:/small gpt, ü/1"
ENVIRONMENT = {"packages": {"torch": "2.13.0"}, "hardware": "a machine"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project in a subfolder of a repository whose path is not ASCII."""
    folder = tmp_path / "a repository, ü" / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text(
        "[core]\n    remote = storage\n['remote \"storage\"']\n    url = ../../störage\n"
    )
    (folder / ".dvc/.gitignore").write_text("/tmp\n/cache\n/config.local\n")
    (folder / "params.yaml").write_text("a: 1\n")
    (folder / "code.py").write_text("layers = 2\n")
    (folder / "dvc.lock").write_text("stages: {}\n")
    git(folder.parent, "init")
    git(folder.parent, "add", "-A")
    git(folder.parent, "commit", "-m", "begin")
    monkeypatch.chdir(folder)
    return folder


def record_of(project: Path, patch: bytes = b"", **files: bytes) -> Record:
    values: dict[str, Any] = {"code": {"commit": git(project, "rev-parse", "HEAD")}, "sources": []}
    return Record(values, {"uncommitted.patch": patch, "params.yaml": b"a: 2\n", **files})


def refused(project: Path, record: Record, message: str) -> None:
    with pytest.raises(UserError, match=message), open_place(project, URI, record, ENVIRONMENT):
        pass


def test_it_holds_the_commit_the_patch_and_the_recorded_settings(project: Path) -> None:
    (project / "code.py").write_text("layers = 3\n")
    patch = subprocess.run(["git", "diff", "--binary", "HEAD"], cwd=project, capture_output=True, check=True).stdout
    record = record_of(project, patch)
    (project / "code.py").write_text("layers = 4\n")
    status = git(project, "status", "--porcelain")
    with open_place(project, URI, record, ENVIRONMENT) as place:
        assert (place.project / "code.py").read_text() == "layers = 3\n"
        assert (place.project / "params.yaml").read_text() == "a: 2\n"
        assert not (place.project / "dvc.lock").exists(), "DVC finds nothing done"
        assert not place.goes_on
        assert git(project, "status", "--porcelain") == status
        settings = Config(str(place.project / ".dvc"))
        assert settings["cache"]["dir"] == str(place.root / "cache")
        assert Path(settings["remote"]["storage"]["url"]).resolve() == project.parent / "störage"
        assert (place.root / "cache/files").resolve() == (project / ".dvc/cache/files").resolve()
        place.remove()
    assert git(project, "worktree", "list").count("\n") == 0
    assert not list((project / ".dvc/tmp/reproduce").glob("*/"))
    assert (project / "code.py").read_text() == "layers = 4\n"


def test_what_was_stopped_goes_on_unless_the_environment_is_another(project: Path) -> None:
    record = record_of(project)
    with open_place(project, URI, record, ENVIRONMENT) as place:
        (place.project / "made").touch()
    with open_place(project, URI, record, ENVIRONMENT) as place:
        assert place.goes_on
        assert (place.project / "made").exists()
    with open_place(project, URI, record, ENVIRONMENT | {"hardware": "another"}) as place:
        assert not place.goes_on
        assert not (place.project / "made").exists()
        place.leave()
    with open_place(project, URI, record, ENVIRONMENT | {"hardware": "another"}) as place:
        assert not place.goes_on, "it was left to be looked at"


def test_one_works_there_at_a_time(project: Path) -> None:
    record = record_of(project)
    with open_place(project, URI, record, ENVIRONMENT) as place:
        assert locks.is_locked(place.root.with_name(f"{place.root.name}.lock"))
        refused(project, record, "is being reproduced already, in .* by process")


def test_a_worktree_that_was_removed_by_hand_or_never_made_whole_is_made_anew(project: Path) -> None:
    record = record_of(project)
    with open_place(project, URI, record, ENVIRONMENT) as place:
        pass
    shutil.rmtree(place.root)
    with open_place(project, URI, record, ENVIRONMENT) as place:
        assert (place.project / "code.py").exists()
    (place.root / "ready.json").unlink()
    shutil.rmtree(place.project)
    with open_place(project, URI, record, ENVIRONMENT) as place:
        assert (place.project / "code.py").exists()


@pytest.mark.parametrize(
    ("commit", "message"),
    [
        ("0123456789" * 4, "has not got commit 0123.*`git fetch --all`"),
        ("none", "was registered outside git, or before the first commit"),
    ],
)
def test_a_commit_that_is_not_here_is_named_with_the_way_to_get_it(project: Path, commit: str, message: str) -> None:
    record = record_of(project)
    record.values["code"]["commit"] = commit
    refused(project, record, message)
    assert not list((project / ".dvc/tmp").glob("reproduce/*/"))


def test_a_shallow_clone_is_told_to_deepen(project: Path, tmp_path: Path) -> None:
    record = record_of(project)
    (project / "code.py").write_text("layers = 5\n")
    git(project, "commit", "-am", "later")
    git(tmp_path, "clone", "--depth", "1", project.parent.as_uri(), str(tmp_path / "clone"))
    refused(tmp_path / "clone/project", record, "`git fetch --unshallow`")


def test_outside_git_and_with_a_patch_that_does_not_fit_it_is_one_clear_error(project: Path, tmp_path: Path) -> None:
    record = record_of(project, b"--- a/project/none.py\n+++ b/project/none.py\n@@ -1 +1 @@\n-a\n+b\n")
    refused(project, record, "the recorded patch does not fit commit")
    (tmp_path / "elsewhere").mkdir()
    refused(tmp_path / "elsewhere", record, "not a git repository")


def test_a_source_beside_the_settings_that_git_does_not_keep_is_found(project: Path) -> None:
    (project / "text.txt").write_text("to be")
    record = record_of(project)
    record.values["sources"].append({"kind": "local", "address": "text.txt"})
    with open_place(project, URI, record, ENVIRONMENT) as place:
        assert (place.project / "text.txt").read_text() == "to be"
        place.remove()
    assert (project / "text.txt").read_text() == "to be"


def test_what_a_killed_attempt_left_running_is_ended_and_nothing_else(project: Path) -> None:
    record = record_of(project)
    killed = subprocess.Popen(["true"])
    killed.wait()
    with open_place(project, URI, record, ENVIRONMENT) as place:
        root = place.root
        sleep = partial(subprocess.Popen, ["sleep", "1000"], cwd=root)
        ours = sleep(env=os.environ | {FOLDER: str(root)}, pass_fds=(place.lock.fileno(),))  # holds the lock on
        others = sleep()
        place.lock.seek(0)
        place.lock.truncate()
        place.lock.write(f"process {killed.pid} on {socket.gethostname()}, since yesterday")
    try:
        with open_place(project, URI, record, ENVIRONMENT) as place:
            assert place.goes_on
            assert not psutil.pid_exists(ours.pid)
            assert others.poll() is None
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()
