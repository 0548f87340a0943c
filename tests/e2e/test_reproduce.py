"""`gpt reproduce`: a registered version is made again from its record, on made-up text, and compared byte for byte."""

import subprocess
from collections.abc import Callable

from tests.e2e.conftest import Project

REPRO = ("dvc", "repro")
VERSION = "models:/shakespeare-gpt/1"


def register(project: Project) -> None:
    project.run(*REPRO)
    project.run("gpt", "register")


def state(project: Project) -> dict[str, object]:
    """What a reproduction must leave alone."""
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=project.folder, check=True, capture_output=True, text=True
    ).stdout
    return {
        "status": status,
        "lock": (project.folder / "dvc.lock").read_bytes(),
        "outputs": {
            name: project.hash_of(name) for name in ("data", "models", "metrics", "plots", "reports", "mlartifacts")
        },
        "runs": sorted(path.name for path in (project.folder / "mlartifacts").glob("*/*")),
        "run cache": sorted(path.name for path in (project.folder / ".dvc/cache/runs").rglob("*")),
    }


def test_a_version_is_made_again_and_the_project_is_left_as_it_was(make_project: Callable[..., Project]) -> None:
    project = make_project()
    register(project)
    before = state(project)
    said = project.run("gpt", "reproduce", VERSION)
    print(said)
    assert f"{VERSION}: identical, weights " in said
    assert state(project) == before
    assert not list((project.folder / ".dvc/tmp/reproduce").glob("*/"))
