"""Git, as everything here asks it: one way to call it, and one set of messages where it is not there or refuses.

It is asked about the repository that the project's folder lies in, as DVC finds it, whatever GIT_DIR and its like say: a hook or
another tool may have set them for a repository of its own, and a version would name that one's commit.
"""

import configparser
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

from gpt.errors import UserError

CODE = ("gpt", "flows")
"Where a file that git does not know yet decides the result all the same; new files elsewhere are a person's own."
GENERATED = ("dvc.lock", "metrics", "plots")
"Written by stages: what they say of the code is said by the code."

ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
"Variables by which git would look at another repository than that of the folder."

WITHOUT = "dvc config --local core.no_scm true"
"What lets DVC run where there is no repository; it refuses otherwise."

_SECONDS = 60
_BEGIN = '`git init && git add -A && git commit -m "begin"` makes it one'


class NoRepository(UserError):
    """A project lies in no git repository."""


def find_repository(project: Path) -> Path:
    """Return the top folder of the git repository that a project lies in.

    Raises `NoRepository` where there is none, `UserError` where there is one that git is not here for, or refuses to read.
    """
    return Path(os.fsdecode(ask(project, "rev-parse", "--show-toplevel").removesuffix(b"\n")))


def find_commit(project: Path, revision: str = "HEAD") -> str | None:
    """Return the hash of a revision's commit; None if git knows no such revision, as HEAD before the first commit.

    Raises `UserError` if its objects are not all there.
    """
    named = _answer(project, "rev-parse", "--verify", "--quiet", "--end-of-options", revision)
    if named is None:
        return None
    commit = _answer(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is not None:
        return commit.decode().strip()
    name = named.decode().strip()
    if _answer(project, "cat-file", "-e", name) is None:
        raise UserError(
            f"{project.absolute()}: git has not got {name}, which is {revision};"
            " `git fsck` says whether the repository is damaged"
        )
    return None  # a file, as HEAD:params.yaml is


def read_file(project: Path, commit: str, path: Path) -> bytes | None:
    """Return a file of a commit, named from the project's folder; None if the commit has none."""
    entry = ask(project, "ls-tree", "-z", commit, "--", path.as_posix())
    return ask(project, "cat-file", "blob", entry.split()[2].decode()) if entry else None


def list_files(project: Path, *arguments: str) -> list[str]:
    """Return the paths that a command of git prints with `-z`, as they are on the disk."""
    return [os.fsdecode(path) for path in ask(project, *arguments).split(b"\0") if path]


def ignore_pattern(path: Path) -> str:
    """Return the line of a `.gitignore` that means one path below its folder, whatever signs of a pattern the name holds.

    A line can hold no line break, and a text file no byte that is not UTF-8: any one sign stands for each.
    """
    name = path.as_posix()
    end = len(name.rstrip(" \t\r\n"))  # git takes blanks away from there

    def escape(place: int, sign: str) -> str:
        if sign in "\r\n" or "\udc80" <= sign <= "\udcff":
            return "?"
        return f"\\{sign}" if sign in "\\*?[" or place >= end else sign

    return "/" + "".join(escape(place, sign) for place, sign in enumerate(name))


def is_shallow(project: Path) -> bool:
    """Whether a repository holds only the newest part of its history, as after `git clone --depth 1`."""
    return ask(project, "rev-parse", "--is-shallow-repository") == b"true\n"


def check_repository(project: Path) -> None:
    """Raise `UserError` if DVC or the registry would refuse to work in a project, for what git says or does not say."""
    try:
        find_repository(project)
    except NoRepository as error:
        if not dvc_does_without(project):
            raise UserError(f"{error}; without git, `{WITHOUT}` lets DVC run") from None


def dvc_does_without(project: Path) -> bool:
    """Whether DVC's settings in a project say that it needs no git repository (core.no_scm)."""
    try:
        return dvc_settings(project).getboolean("core", "no_scm", fallback=False)
    except ValueError:
        return False  # DVC itself says what is wrong with it


def dvc_settings(project: Path) -> configparser.ConfigParser:
    """Return DVC's settings of a project and of this copy of it, none where they cannot be read: DVC itself says why."""
    settings = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, UnicodeDecodeError):
        settings.read([project / ".dvc/config", project / ".dvc/config.local"], encoding="utf-8")
    return settings


def ask(
    project: Path,
    *arguments: str,
    index: Path | None = None,
    stdin: bytes = b"",
    timeout_seconds: float = _SECONDS,
) -> bytes:
    """Run git in the project's folder and return what it prints. `index` is used in place of the repository's own.

    Raises `NoRepository` or `UserError`, as `find_repository`.
    """
    done = _run(project, arguments, index, stdin, timeout_seconds)
    if done.returncode:
        raise _refusal(project, done.stderr.decode(errors="replace"))
    return done.stdout


def _answer(project: Path, *arguments: str) -> bytes | None:
    """Return what a command prints that says "no" by its exit code alone; None if it does."""
    done = _run(project, arguments, None, b"", _SECONDS)
    if done.returncode and done.stderr.strip():
        raise _refusal(project, done.stderr.decode(errors="replace"))
    return None if done.returncode else done.stdout


def _run(
    project: Path, arguments: tuple[str, ...], index: Path | None, stdin: bytes, timeout_seconds: float
) -> "subprocess.CompletedProcess[bytes]":
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    # Nothing is locked, nobody is asked for a password, and messages are in the language in which they are read here.
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    if index:
        environment["GIT_INDEX_FILE"] = str(index)
    command = ["git", "-c", "core.quotePath=false", "-c", "diff.relative=false", *arguments]
    try:
        return subprocess.run(
            command,
            cwd=project,
            env=environment,
            input=stdin,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
        )
    except (FileNotFoundError, PermissionError) as error:
        if not project.is_dir():
            raise
        if _dot_git(project) is None:
            raise NoRepository(f"{project.absolute()}: not a git repository, and git is not installed") from None
        raise UserError(f"git: cannot be run ({error.strerror}); install it, or put it on PATH") from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{project.absolute()}: git did not answer within {timeout_seconds:g} s; see `git status`"
        ) from None


def _refusal(project: Path, said: str) -> UserError:
    """Return the error that what git said on refusing comes to."""
    reason = " ".join(said.removeprefix("fatal: ").split())
    if trust := re.search(r"^\s*(git config --global --add safe\.directory .+)$", said, re.MULTILINE):
        folder = trust[1].partition("safe.directory ")[2]
        return UserError(
            f"{folder}: belongs to another user, and git does not read it unless you trust it: `{trust[1]}`"
        )
    if "not a git repository" in said or "invalid gitfile" in said:
        place = _dot_git(project)
        if place is None:
            return NoRepository(f"{project.absolute()}: not a git repository; {_BEGIN}")
        if place.is_file():
            return UserError(
                f"{place}: names a repository that is not there ({reason}); this is a worktree or submodule of it:"
                " bring it to that place, or clone the project"
            )
        return UserError(
            f"{place}: git does not take it for a repository ({reason}); restore it, or remove it and begin anew: {_BEGIN}"
        )
    return UserError(f"{project.absolute()}: git cannot read this repository ({reason})")


def _dot_git(project: Path) -> Path | None:
    """Return the .git that git would find for a project, whatever it is; like git, look on one file system only."""
    folder = project.resolve()
    device = folder.stat().st_dev
    for place in (folder, *folder.parents):
        if place.stat().st_dev != device:
            return None
        if os.path.lexists(place / ".git"):
            return place / ".git"
    return None
