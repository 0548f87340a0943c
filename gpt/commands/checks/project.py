"""The project's folder: its repository, DVC and params.yaml."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from gpt import git
from gpt.commands.checks.finding import Finding, missing
from gpt.errors import UserError
from gpt.memory import in_units

# The project's folder, and those below it that stages, runs, DVC and MLflow write to.
_NAMES = ". data models metrics plots reports checkpoints spool mlartifacts .dvc .dvc/cache"
_WRITTEN = tuple(map(Path, _NAMES.split()))
_LEAST_FREE_BYTES = 2 * 2**30


def repository() -> Iterator[Finding]:
    program = shutil.which("git")
    yield (
        ("ok" if program else "missing"),
        "git",
        program or "not found; install it: versions of models name their commit",
    )
    if program:
        yield from _code()
    inside = Path(".dvc").is_dir()
    yield (
        ("ok" if inside else "missing"),
        "DVC",
        "repository here" if inside else "no .dvc here; run this in the project's folder",
    )
    try:
        str(Path.cwd()).format()  # DVC 3.67 does this with the path of its cache
    except (LookupError, ValueError):
        yield "missing", "folder", f"DVC cannot work under a name with {{ or }}: rename what has one in {Path.cwd()}"
    if "%" in sys.prefix:  # MLflow 3.17 hands its own folder to alembic, which reads % as the start of a variable
        yield (
            "missing",
            "folder",
            f"MLflow cannot be installed under a name with %: rename what has one in {sys.prefix}",
        )


def _code() -> Iterator[Finding]:
    """Whether git has the project's code, so that a version of a model can name it, and DVC runs at all."""
    if astray := [name for name in git.ELSEWHERE if name in os.environ]:
        yield (
            "note",
            "git",
            f"{', '.join(astray)} in the environment: not looked at here, but `git` by hand obeys; unset it",
        )
    try:
        top = git.find_repository(Path())
        if git.find_commit(Path()) is None:
            yield "note", "repository", f"{top}: no commit yet; versions of models name one: `git add -A && git commit`"
        elif not git.list_files(Path(), "ls-files", "-z", "--", "params.yaml"):
            yield (
                "note",
                "repository",
                f"{top}: does not know params.yaml of this folder; is it that of another project?",
            )
        else:
            yield "ok", "repository", f"{top}"
    except git.NoRepository as error:
        if git.dvc_does_without(Path()):
            yield "note", "repository", f"{error}; DVC does without (core.no_scm), versions of models name no commit"
        else:
            yield "missing", "repository", f"{error}; without git, `{git.WITHOUT}` lets DVC run"
    except UserError as error:
        yield "missing", "repository", str(error)


def places() -> Iterator[Finding]:
    """Whether what stages and runs write finds a place: folders that can be written, on disks with room."""
    there = [path for path in _WRITTEN if path.exists()]
    if closed := [path for path in there if not os.access(path, os.W_OK | os.X_OK)]:
        names = ", ".join(str(path) if path != Path() else f"{path.absolute()}" for path in closed)
        yield "missing", "folders", f"cannot be written: {names}; allow it (chmod, chown), or mount it writable"
    disks: dict[int, list[Path]] = {}
    for path in there:
        disks.setdefault(path.stat().st_dev, []).append(path)
    for paths_of_disk in disks.values():
        free = shutil.disk_usage(paths_of_disk[0]).free
        where = "here" if Path() in paths_of_disk else "for " + ", ".join(map(str, paths_of_disk))
        low = free < _LEAST_FREE_BYTES
        advice = "; checkpoints and the DVC cache need room: free some" if low else ""
        yield ("missing" if low else "ok"), "disk", f"{in_units(free)} free {where}{advice}"


def settings() -> Iterator[Finding]:
    from gpt.params.project import load_params

    try:
        load_params()
        yield "ok", "params.yaml", "valid"
    except UserError as error:
        yield from missing("params.yaml", error)
