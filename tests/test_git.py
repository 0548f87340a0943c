"""Git as the project asks it: of the repository that its folder lies in, with one message for each way in which git refuses."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.keeping import how_to_keep
from gpt.commands.checks import project as checks
from gpt.errors import UserError
from gpt.git import (
    NoRepository,
    check_repository,
    find_commit,
    find_repository,
    ignore_pattern,
    list_files,
    read_file,
)
from gpt.registry.git import read_code
from gpt.reports.data_diff import diff
from tests import ROOT


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def make_repository(folder: Path, *files: str) -> Path:
    folder.mkdir()
    for name in ("params.yaml", *files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{folder.name}: {name}\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "begin")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "a ü", "gpt/model.py", "ä b.txt")


def worktree(repository: Path) -> Path:
    git(repository, "worktree", "add", "-q", "--detach", "../tree")
    return repository.parent / "tree"


def submodule(repository: Path) -> Path:
    outer = make_repository(repository.parent / "outer")
    git(outer, "submodule", "add", "-q", str(repository), "inner")
    return outer / "inner"


def shallow(repository: Path) -> Path:
    git(repository, "commit", "-qm", "second", "--allow-empty")
    git(repository.parent, "clone", "-q", "--depth", "1", repository.as_uri(), "shallow")
    return repository.parent / "shallow"


def detached(repository: Path) -> Path:
    git(repository, "checkout", "-q", "--detach")
    return repository


@pytest.mark.parametrize("make", [worktree, submodule, shallow, detached])
def test_whatever_form_a_checkout_has_its_code_is_known(make: Callable[[Path], Path], repository: Path) -> None:
    folder = make(repository)
    commit = git(folder, "rev-parse", "HEAD")
    assert find_repository(folder) == folder
    assert find_commit(folder) == commit
    code = read_code(folder)
    assert (code.commit, code.dirty) == (commit, False)
    (folder / "gpt/model.py").write_text("changed\n")
    assert read_code(folder).dirty
    (folder / "dvc.lock").write_text("new\n")
    said = "\n".join(how_to_keep(folder))
    assert "dvc.lock changed since" in said and "gpt/model.py changed too" in said


def test_names_are_those_of_the_disk_and_contents_those_of_the_commit(repository: Path) -> None:
    assert list_files(repository, "ls-files", "-z") == sorted(["gpt/model.py", "params.yaml", "ä b.txt"])
    (repository / "ä b.txt").write_text("later\n")
    assert read_file(repository, "HEAD", Path("ä b.txt")) == "a ü: ä b.txt\n".encode()
    assert read_file(repository / "gpt", "HEAD", Path("model.py")) == "a ü: gpt/model.py\n".encode(), (
        "as DVC: from here"
    )
    assert read_file(repository, "HEAD", Path("none.txt")) is None


def test_a_hooks_environment_leads_to_no_other_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert find_repository(repository) == repository
    assert read_file(repository, "HEAD", Path("params.yaml")) == "a ü: params.yaml\n".encode()
    assert not read_code(repository).dirty
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert find_repository(repository) == repository
    monkeypatch.chdir(repository)
    assert any("GIT_DIR" in text for _, _, text in checks.repository())


def test_there_is_no_repository_and_no_commit(tmp_path: Path) -> None:
    with pytest.raises(NoRepository, match=r"not a git repository; `git init"):
        find_repository(tmp_path)
    with pytest.raises(UserError, match=r"versions of data are git revisions, but .*: not a git repository"):
        diff(tmp_path, "HEAD")
    git(tmp_path, "init", "-q")
    assert find_commit(tmp_path) is None
    with pytest.raises(UserError, match="HEAD: no revision that git knows"):
        diff(tmp_path, "HEAD")


def test_of_a_shallow_clone_it_is_said_that_more_can_be_had(repository: Path) -> None:
    with pytest.raises(UserError, match=r"HEAD~1: no revision that git knows in this shallow clone; `git fetch --unsh"):
        diff(shallow(repository), "HEAD~1")


# Ways in which there is a repository that cannot be read: what is done to it, and what is said.


def belongs_to_another(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own tests do it so


def breaks_settings(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / ".git/config").write_text("[broken\n")


def loses_head(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / ".git/HEAD").unlink()


def loses_objects(folder: Path, _: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder / ".git/objects")
    (folder / ".git/objects").mkdir()


def names_nothing(folder: Path, _: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder / ".git")
    (folder / ".git").write_text("gitdir: /nowhere/.git/worktrees/a\n")


def is_no_gitfile(folder: Path, _: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder / ".git")
    (folder / ".git").write_text("nonsense\n")


def git_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))


REFUSALS: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], str]] = {
    "of another user": (belongs_to_another, "belongs to another user.*`git config --global --add safe.directory .*a ü"),
    "broken settings": (breaks_settings, "git cannot read this repository .bad config line 1"),
    "no HEAD": (loses_head, r"\.git: git does not take it for a repository"),
    "no objects": (loses_objects, "git has not got [0-9a-f]{40}, which is HEAD"),
    "a worktree of nothing": (names_nothing, r"\.git: names a repository that is not there .*worktrees/a"),
    "a file that is none of git's": (is_no_gitfile, r"\.git: names a repository that is not there .*invalid gitfile"),
    "no git": (git_is_not_installed, "git: cannot be run .*; install it, or put it on PATH"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_repository_that_cannot_be_read_is_the_same_message_everywhere(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
) -> None:
    spoil(repository, monkeypatch)
    for use in (read_code, lambda folder: diff(folder, "HEAD")):
        with pytest.raises(UserError, match=message) as raised:
            use(repository)
        assert not isinstance(raised.value, NoRepository), "a version would name no commit, without a word"
        assert "\n" not in str(raised.value)
    (line,) = how_to_keep(repository)
    assert line.startswith("git status       ")
    monkeypatch.chdir(repository)
    assert [kind for kind, subject, _ in checks.repository() if subject in ("git", "repository")].count("missing") == 1


def test_doctor_tells_of_a_copy_without_a_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As GitHub's ZIP is: DVC refuses to run in it, unless it is told to do without."""
    shutil.rmtree(repository / ".git")
    (repository / ".dvc").mkdir()
    monkeypatch.chdir(repository)
    ((kind, text),) = ((kind, text) for kind, subject, text in checks.repository() if subject == "repository")
    assert kind == "missing"
    assert "git init" in text and "dvc config --local core.no_scm true" in text
    with pytest.raises(UserError, match=r"not a git repository.*core.no_scm"):
        check_repository(repository)

    def dvc(*arguments: str) -> "subprocess.CompletedProcess[str]":
        variables = os.environ | {"DVC_SITE_CACHE_DIR": str(tmp_path / "site"), "DVC_NO_ANALYTICS": "1"}
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    assert "is not a git repository" in dvc("status").stderr, "else nothing need be told"
    assert dvc(*text.rpartition("`dvc ")[2].partition("`")[0].split()).returncode == 0
    assert dvc("status").returncode == 0
    check_repository(repository)
    assert [kind for kind, subject, _ in checks.repository() if subject == "repository"] == ["note"]


@pytest.mark.parametrize("is_empty", [True, False])
def test_doctor_tells_of_a_repository_that_has_not_got_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_empty: bool
) -> None:
    outer = tmp_path if is_empty else make_repository(tmp_path / "home")
    if is_empty:
        git(outer, "init", "-q")
    (outer / "zip").mkdir()
    (outer / "zip/params.yaml").write_text("")
    monkeypatch.chdir(outer / "zip")
    ((kind, text),) = ((kind, text) for kind, subject, text in checks.repository() if subject == "repository")
    assert (kind, "no commit yet" in text, "another project" in text) == ("note", is_empty, not is_empty)


def test_a_flow_ends_before_any_work_where_dvc_would_refuse(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "flows.pretrain"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: not a git repository;")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    "name",
    [
        *("plain.txt", "#a", "!a", "a*b", "**", "a?b", "[ab]", "a]b", "a\\b", "a\\", "sub/#a [1] "),
        *("a ", "a \t ", " a", "a\nb", "a\\\n", "a\r"),
    ],
)  # fmt: skip
def test_a_line_of_gitignore_means_one_path_whatever_its_name(tmp_path: Path, name: str) -> None:
    git(tmp_path, "init", "-q")
    line = ignore_pattern(Path(name))
    (tmp_path / ".gitignore").write_text(f"{line}\n", encoding="utf-8", newline="")
    decoys = {"axxb", f"{name}x"} | (set() if "\n" in name or "\r" in name else {"ab", "axb", "abb"})
    for each in (name, *decoys):
        (tmp_path / each).parent.mkdir(exist_ok=True)
        (tmp_path / each).write_text("text")
    others = set(list_files(tmp_path, "ls-files", "-z", "--others", "--exclude-standard"))
    assert others == {".gitignore", *decoys}
