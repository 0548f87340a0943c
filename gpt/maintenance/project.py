"""The project that room is made in: what belongs to it in a store that others share, and what its settings name.

Settings count wherever somebody may go back to them: in the folder, at the tips of branches and tags, in stashes and in DVC's
experiments, those that are queued too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gpt import git, paths
from gpt.files import as_object, lenient_yaml
from gpt.params.finetuning import FOLDER, is_recipe_name, registered_name
from gpt.params.project import PARAMS_FILE, Params
from gpt.registry.packaging.offer import offered_as

_REFS = ("refs/heads", "refs/tags", "refs/exps")
_STASHES = ("refs/stash", "refs/exps/stash", "refs/exps/celery/stash", "refs/exps/celery/failed")


@dataclass(frozen=True)
class Project:
    """The project in the current folder."""

    params: Params

    @cached_property
    def recipes(self) -> tuple[str, ...]:
        """Return the names of the recipes of fine-tuning."""
        names = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "dvc")
        return tuple(name for name in names if is_recipe_name(name))

    @property
    def promoted(self) -> frozenset[str]:
        """Return the names of its registered models, of which champions are."""
        name = self.params.register_.name
        return frozenset({name, *(registered_name(name, recipe) for recipe in self.recipes)})

    @property
    def models(self) -> frozenset[str]:
        """Return the names of its registered models, those that candidates wait under too."""
        return self.promoted | {offered_as(name) for name in self.promoted}

    @property
    def experiments(self) -> tuple[str, ...]:
        """Return the names of its experiments in MLflow."""
        name = self.params.register_.name
        return (self.params.base.name, *(registered_name(name, recipe) for recipe in self.recipes))

    @cached_property
    def stashed(self) -> tuple[str, ...]:
        """Return the commits that git and DVC's queue have put aside; DVC's own removal of unused files knows of none."""
        return tuple(dict.fromkeys(commit for ref in _STASHES for commit in self._reflog(ref)))

    @property
    def has_queue(self) -> bool:
        """Whether experiments wait in DVC's queue, or have failed in it: those may be started again."""
        return any(self._reflog(ref) for ref in _STASHES[1:])

    @property
    def has_open_trials(self) -> bool:
        """Whether a sweep has trials that go on when it does: what has ended has no copy of the project any more."""
        return any((paths.EXPERIMENTS / "sweeps").glob("*/*"))

    def revisions(self) -> tuple[str, ...]:
        """Return the commits whose settings count; none outside a git repository."""
        if not self.has_commits:
            return ()
        tagged = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)"
        listed = git.ask(Path.cwd(), "for-each-ref", f"--format={tagged}", *_REFS).decode().split()
        return tuple(dict.fromkeys([*listed, *self.stashed]))

    @cached_property
    def has_commits(self) -> bool:
        try:
            return git.find_commit(Path.cwd()) is not None
        except git.NoRepository:
            return False

    @cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(self._find_named())

    def named(self) -> frozenset[str]:
        """Return the models, and the folders of checkpoints, that settings begin with."""
        return self._named

    def _find_named(self) -> Iterator[str]:
        for commit in (None, *self.revisions()):
            for path in self._settings(commit):
                content = path.read_bytes() if commit is None else git.read_file(Path.cwd(), commit, path)
                values = lenient_yaml(content or b"")
                # `base` names weights in a recipe, and is a section of params.yaml.
                spec = as_object(values.get("train")).get("init_from") if path == PARAMS_FILE else values.get("base")
                if spec and isinstance(spec, str):
                    yield spec if spec.startswith(("models:", "@")) else Path(spec).as_posix()
                    yield from checkpoints_in(spec)

    def _settings(self, commit: str | None) -> list[Path]:
        if commit is None:
            return [PARAMS_FILE, *(FOLDER / f"{recipe}.yaml" for recipe in self.recipes)]
        listed = git.list_files(Path.cwd(), "ls-tree", "-z", "--name-only", commit, "--", f"{FOLDER}/")
        return [PARAMS_FILE, *(Path(name) for name in listed if name.endswith(".yaml") and Path(name).stem != "dvc")]

    def _reflog(self, ref: str) -> list[str]:
        if not self.has_commits:
            return []
        found = git.ask(Path.cwd(), "for-each-ref", "--format=%(objectname)", ref).decode().split()
        return [*git.ask(Path.cwd(), "reflog", "show", "--format=%H", ref).decode().split(), *found] if found else []


def checkpoints_in(path: str) -> Iterator[str]:
    """Yield the folders of checkpoints that a path lies in, as in `checkpoints/0123456789abcdef`."""
    parts = Path(path).parts
    if paths.CHECKPOINTS.name in parts:
        below = parts[parts.index(paths.CHECKPOINTS.name) + 1 :]
        for length in range(1, min(2, len(below)) + 1):
            yield Path(paths.CHECKPOINTS, *below[:length]).as_posix()
