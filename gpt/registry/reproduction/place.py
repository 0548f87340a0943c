"""Where a version is made again: `.dvc/tmp/reproduce/NAME-VERSION-…`, with its code as a git worktree and its settings.

git and DVC ignore that folder, and nothing that works in it writes to the project's own files: training is recorded in a
database of its own, DVC's run cache is one of its own too (else a result that differs would pass for the project's), and only
DVC's files, which are named by their content, are shared. It stays until the version was made, so that what was stopped goes on.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from gpt import git, locks
from gpt.errors import UserError
from gpt.files import read_json, sha256_json, write_json
from gpt.params.project import PARAMS_FILE
from gpt.registry.lineage import DVC_LOCK, NONE, REQUIREMENTS_LOCK
from gpt.registry.record import Record
from gpt.registry.reproduction.content import cache_of, dvc_folder
from gpt.registry.reproduction.trees import end_left_behind, is_gone

_KEPT = Path("tmp/reproduce")
"Below the .dvc folder of the project."
_READY, _CODE, _CACHE = "ready.json", "code", "cache"
_GIT_SECONDS = 600  # a checkout may hold much


@dataclass(frozen=True)
class Place:
    """A folder in which a version is made again."""

    uri: str
    origin: Path
    "The project that it is made again for."
    root: Path
    project: Path
    "The project in the worktree: it may be a subfolder of the repository."
    lock: TextIO
    goes_on: bool
    "An earlier attempt was stopped here, and what it made is used."

    @property
    def database(self) -> Path:
        """MLflow's, of this folder alone."""
        return self.root / "mlflow.db"

    @property
    def cache(self) -> Path:
        """DVC's, which shares the project's files."""
        return self.root / _CACHE

    def remove(self) -> None:
        _remove(self.origin, self.root)

    def leave(self) -> None:
        """Let the folder stay to be looked at; the next attempt begins anew."""
        (self.root / _READY).unlink(missing_ok=True)


@contextmanager
def open_place(project: Path, uri: str, record: Record, environment: dict[str, Any]) -> Iterator[Place]:
    """Give the folder in which the version `uri` is made again, new or as an earlier attempt with the same environment left it.

    It stays until somebody removes it. Raises `UserError` if another process works there, the
    project is in no git repository, or that has not got the commit.
    """
    commit = check_commit(project, uri, record)
    key = f"{quote(uri.removeprefix('models:/'), safe='').replace('%2F', '-')[:80]}-{sha256_json(record.values)[:8]}"
    root = dvc_folder(project.resolve()) / _KEPT / key
    lock_file = root.with_name(f"{key}.lock")
    lock = locks.try_lock(lock_file)
    if lock is None and is_gone(locks.holder(lock_file)):
        end_left_behind(root)  # what it started holds its lock
        lock = locks.try_lock(lock_file)
    if lock is None:
        who = locks.holder(lock_file)
        raise UserError(f"{uri}: is being reproduced already, in {root} by {who}; wait for it or stop it")
    with lock:
        end_left_behind(root)
        goes_on = _is_ready(root, environment)
        if not goes_on:
            _remove(project, root)
            _build(project, root, commit, record)
            write_json(root / _READY, environment)
        yield Place(uri, project, root, _project_in(project, root), lock, goes_on)


def left_places(project: Path) -> list[tuple[Path, Path]]:
    """Return the folders in which versions were made again and that are still there, each with its lock; [] outside DVC."""
    try:
        kept = dvc_folder(project.resolve()) / _KEPT
    except UserError:
        return []
    return [(root, root.with_name(f"{root.name}.lock")) for root in sorted(kept.glob("*")) if root.is_dir()]


def remove_place(project: Path, root: Path) -> None:
    """Remove a folder in which a version was made again, whose lock is held, with what git knows of it."""
    end_left_behind(root)
    _remove(project, root)


def check_commit(project: Path, uri: str, record: Record) -> str:
    """Return the version's commit; raise `UserError` with what to do if the repository has not got it."""
    commit = record.values["code"]["commit"]
    if commit == NONE:
        raise UserError(f"{uri}: was registered outside git, or before the first commit; nothing names its code")
    git.find_repository(project)
    try:
        found = git.find_commit(project, commit)
    except UserError:  # git takes any 40 digits for a name, and misses the object then
        found = None
    if found is None:
        deeper = "`git fetch --unshallow`" if git.is_shallow(project) else "`git fetch --all`"
        raise UserError(
            f"{project.absolute()}: has not got commit {commit} of {uri}; {deeper} brings it if the remote has it,"
            " else run this in a clone of the repository that registered it"
        )
    return commit


def _remove(project: Path, root: Path) -> None:
    """Remove the folder of a reproduction, and what git knows of its worktree."""
    if (root / _CODE).exists():
        with suppress(UserError):  # it was not made whole: no worktree yet
            git.ask(project, "worktree", "remove", "--force", "--force", str(root / _CODE))
    if root.exists():
        shutil.rmtree(root)


def _is_ready(root: Path, environment: dict[str, Any]) -> bool:
    try:
        return read_json(root / _READY, "") == environment
    except UserError:
        return False


def _build(project: Path, root: Path, commit: str, record: Record) -> None:
    root.mkdir(parents=True)
    # Forced, as git may know of a worktree there that somebody removed by hand. Hooks are for people's checkouts.
    checkout = ("-c", "core.hooksPath=/dev/null", "worktree", "add", "--force", "--detach", str(root / _CODE), commit)
    git.ask(project, *checkout, timeout_seconds=_GIT_SECONDS)
    if record.patch:
        try:
            git.ask(root / _CODE, "apply", "--binary", "--whitespace=nowarn", stdin=record.patch)
        except UserError as error:
            raise UserError(f"the recorded patch does not fit commit {commit} ({error})") from None
    made = _project_in(project, root)
    if not made.is_dir():
        raise UserError(f"commit {commit} has no folder {made.relative_to(root / _CODE)}; was the project moved since?")
    if content := record.files.get(PARAMS_FILE.name):
        (made / PARAMS_FILE).write_bytes(content)  # the project may not keep it in git
    if content := record.files.get(REQUIREMENTS_LOCK.name):
        (root / REQUIREMENTS_LOCK).write_bytes(content)  # for whoever installs what it names
    (made / DVC_LOCK).unlink(missing_ok=True)  # so that DVC finds nothing done
    _bring_local_sources(project, made, root, record)
    _set_up_dvc(project, made, root)


def _project_in(project: Path, root: Path) -> Path:
    return root / _CODE / project.resolve().relative_to(git.find_repository(project).resolve())


def _bring_local_sources(project: Path, made: Path, root: Path, record: Record) -> None:
    """Let sources whose path is relative to params.yaml, and that git does not keep, be found from the worktree too."""
    for source in record.values["sources"]:
        if source["kind"] == "local":
            lend(project, made, root, Path(source["address"]))


def lend(project: Path, made: Path, root: Path, path: Path) -> None:
    """Let what a path relative to params.yaml names, and git does not keep, be found from the worktree `made` too, by a link."""
    if path.expanduser().is_absolute():
        return
    here, there = project / path, Path(os.path.normpath(made / path))
    if here.exists() and not there.exists() and there.is_relative_to(root):
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(here.resolve())


def _set_up_dvc(project: Path, made: Path, root: Path) -> None:
    """Let DVC in the worktree read and add files of the project's cache, by content; its run cache is the worktree's own."""
    from configobj import ConfigObj
    from dvc.config import Config

    ours, theirs = dvc_folder(project.resolve()), dvc_folder(made)
    if not theirs.is_relative_to(root / _CODE):
        raise UserError(f"{made}: the commit has no .dvc folder, so DVC cannot run its stages")
    files = cache_of(project) / "files"
    files.mkdir(parents=True, exist_ok=True)
    (root / _CACHE).mkdir()
    (root / _CACHE / "files").symlink_to(files)
    own = Config(str(ours))
    # Written here, as DVC itself writes ASCII only. Remotes are as they are now, with what config.local says of them.
    remotes = {f'remote "{name}"': dict(options) for name, options in own["remote"].items()}
    default = {"remote": name} if (name := own["core"].get("remote")) else {}
    settings = ConfigObj(encoding="utf-8")
    # Hashes are compared by us and git is left alone: DVC need not know of it.
    settings.update({"cache": {"dir": str(root / _CACHE)}, "core": {"no_scm": True, **default}, **remotes})
    with (theirs / "config.local").open("wb") as file:
        os.fchmod(file.fileno(), 0o600)  # it may hold credentials
        settings.write(file)
