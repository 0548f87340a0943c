"""The folder that a trial runs in: a clone of the project at the sweep's commit, with its objects and DVC's cache in common.

A clone and not a `git worktree`: worktrees share all refs, those too in which DVC notes which experiment runs at the moment, and
two at a time would mix theirs up. It lies where DVC makes the copies of its own experiments, so that checkpoints, the spool and a
local store are the project's (gpt/paths.py), and it can be thrown away: whatever cannot be made again lies elsewhere.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt import git, paths
from gpt.errors import UserError
from gpt.files import atomic_file
from gpt.params.changes.lines import set_value
from gpt.params.project import PARAMS_FILE
from gpt.registry.reproduction.content import cache_of

_READY = "gpt-sweep"
"In the clone's .git: it was made to its end."
_MADE = ("dvc.lock", "plots", "metrics")
"What stages write and git keeps: new ones belong to an experiment, too."


class Copy:
    """A trial's clone: `top` is the repository, `project` the folder of params.yaml in it."""

    def __init__(self, project: Path, commit: str, name: str) -> None:
        self._origin = project
        self._commit = commit
        self.top = project / paths.EXPERIMENTS / "sweeps" / name
        prefix = os.fsdecode(git.ask(project, "rev-parse", "--show-prefix").removesuffix(b"\n"))
        self.project = self.top / prefix

    def make(self, values: Mapping[str, Any]) -> None:
        """Bring the clone there, unless it is, with `values` in its params.yaml."""
        if not (self.top / ".git" / _READY).exists():
            self.remove()
            self._clone()
        (self.project / ".dvc/tmp/rwlock").unlink(
            missing_ok=True
        )  # of a killed DVC: DVC takes any process of its pid for it
        self._share_cache()
        path = self.project / PARAMS_FILE
        text = git.read_file(self._origin, self._commit, PARAMS_FILE)
        if text is None:
            raise UserError(f"{PARAMS_FILE}: is not in commit {self._commit[:7]}; commit it")
        with atomic_file(path) as partial:
            partial.write_text(with_values(text.decode(), values), encoding="utf-8")

    def save(self, name: str, message: str, *, is_measured: bool) -> str:
        """Record what the clone holds as an experiment of DVC in the project, and return its commit; again, it is the same one.

        As `dvc exp save` does, which would record stages that never ran. Without `is_measured` figures are left out: those in git
        are of the model that the sweep began with.
        """
        ref = self._ref(name)
        with tempfile.TemporaryDirectory() as folder:
            tree = self._write_tree(Path(folder, "index"), is_measured=is_measured)
        before = git.find_commit(self._origin, ref)
        if before and git.ask(self._origin, "rev-parse", f"{before}^{{tree}}").decode().strip() == tree:
            return before
        arguments = ("commit-tree", tree, "-p", self._commit, "-m", message)
        commit = git.ask(self._origin, *self._identity(), *arguments).decode().strip()
        git.ask(self._origin, "update-ref", ref, commit)
        return commit

    def remove(self) -> None:
        shutil.rmtree(self.top, ignore_errors=True)

    def _ref(self, name: str) -> str:
        """Return where DVC keeps an experiment that began at our commit."""
        from dvc.repo.experiments.refs import ExpRefInfo

        return str(ExpRefInfo(self._commit, name))

    def _clone(self) -> None:
        origin, top = self._origin, self.top
        top.mkdir(parents=True)
        form = git.ask(origin, "rev-parse", "--show-object-format").decode().strip()
        git.ask(origin, "init", "--quiet", "--template=", f"--object-format={form}", str(top))
        (top / ".git/objects/info").mkdir(parents=True, exist_ok=True)
        (top / ".git/objects/info/alternates").write_bytes(os.fsencode(self._git_path("objects")) + b"\n")
        if (shallow := self._git_path("shallow")).exists():
            shutil.copyfile(shallow, top / ".git/shallow")
        git.ask(top, "update-ref", "--no-deref", "HEAD", self._commit)
        git.ask(top, "reset", "--quiet", "--hard")
        git.ask(top, "checkout", "--quiet", "--detach")
        (top / ".git" / _READY).touch()

    def _git_path(self, name: str) -> Path:
        found = os.fsdecode(git.ask(self._origin, "rev-parse", "--git-path", name).removesuffix(b"\n"))
        return (self._origin / found).resolve()

    def _share_cache(self) -> None:
        """Let DVC use the project's cache. Of its local settings no others are taken: they may hold keys to a remote."""
        from configobj import ConfigObj  # as DVC does: a comma in a path would make a list of it

        settings = ConfigObj({"cache": {"dir": str(cache_of(self._origin))}}, encoding="utf-8")
        with atomic_file(self.project / ".dvc/config.local") as partial, partial.open("wb") as file:
            settings.write(file)

    def _write_tree(self, index: Path, *, is_measured: bool) -> str:
        """Return the tree of the clone's tracked files, written into the project's objects."""
        place = (f"--git-dir={self._git_dir()}", f"--work-tree={self.top}")

        def ask(*arguments: str) -> bytes:
            return git.ask(self.top, *place, *arguments, index=index)

        prefix = self.project.relative_to(self.top)
        ask("read-tree", self._commit)
        ask("add", "--update", "--", ".")
        made = [str(prefix / path) for path in _MADE if (self.project / path).exists()]
        if made:
            ask("add", "--force", "--", *made)
        if not is_measured:
            ask("rm", "--cached", "-r", "--quiet", "--ignore-unmatch", "--", str(prefix / paths.METRICS))
        return ask("write-tree").decode().strip()

    def _git_dir(self) -> str:
        return os.fsdecode(git.ask(self._origin, "rev-parse", "--absolute-git-dir").removesuffix(b"\n"))

    def _identity(self) -> tuple[str, ...]:
        """Return options that name a committer where git knows none."""
        try:
            git.ask(self._origin, "var", "GIT_COMMITTER_IDENT")
        except UserError:
            return ("-c", "user.name=gpt", "-c", "user.email=gpt@localhost")
        return ()


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """Return the text of a params.yaml with other values of some keys; all else stays as it is, comments too."""
    for key, value in values.items():
        text = set_value(text, key, value)
    return text
