"""The project's folder: its repository, DVC and params.yaml."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from gpt.commands.checks.finding import Finding
from gpt.errors import UserError


def repository() -> Iterator[Finding]:
    git = shutil.which("git")
    yield ("ok" if git else "missing"), "git", git or "not found; install it: versions of models name their commit"
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


def settings() -> Iterator[Finding]:
    from gpt.params.project import load_params

    try:
        load_params()
        yield "ok", "params.yaml", "valid"
    except UserError as error:
        for line in str(error).splitlines():
            yield "missing", "params.yaml", line.removeprefix("params.yaml: ")
