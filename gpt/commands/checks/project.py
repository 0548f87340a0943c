"""The project's folder: its repository, DVC and params.yaml."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gpt import git
from gpt.commands.checks.finding import Finding
from gpt.errors import UserError


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


def settings() -> Iterator[Finding]:
    from gpt.params.project import load_params

    try:
        load_params()
        yield "ok", "params.yaml", "valid"
    except UserError as error:
        for line in str(error).splitlines():
            yield "missing", "params.yaml", line.removeprefix("params.yaml: ")
