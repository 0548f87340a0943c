"""A project and its environment may lie anywhere: spaces, letters of any alphabet, what shells, URLs and patterns read as more."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from gpt.tracking.store import experiment_id, tracking_uri
from tests.e2e.conftest import Project

NAMES = {
    "plain words": "a b/ü",
    "a URL's characters": "it's #1 😀 or so?",
    "a shell's and a pattern's characters": '-x;& $HOME `id` "q" (a|b) [a]* {{ b }} \\n',
    "longer than a script's first line may be": "/".join(["long " * 12] * 3),
}
SHORT = ("a shell's and a pattern's characters",)
"Those of the slow suite; `make verify NAMES=folders` tries all."


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, id=kind, marks=[pytest.mark.long] * (kind not in SHORT)) for kind, name in NAMES.items()],
)
def test_the_whole_way_in_a_folder_of_any_name(
    make_project: Callable[..., Project], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(name, register={"gate": {"max_bits_per_byte": 8.0}})
    top = project.folder.parents[name.count("/")]
    beside = {path.name for path in top.iterdir()}
    (project.folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    (project.folder / ".git/info/exclude").write_text("/.venv\n")
    project = dataclasses.replace(project, python=str(project.folder / ".venv/bin/python"))

    output = project.run("flows.pretrain")
    assert "models:/shakespeare-gpt/1 (alias challenger)" in output
    assert "Traceback" not in output
    text = project.run("gpt", "generate", "to be", "--model", "models:/shakespeare-gpt/1", "--seed", "1")
    assert text.startswith("to be")
    del project.environment["VIRTUAL_ENV"]  # as without activating it: stages find .venv
    assert project.stages_run(project.run("dvc", "repro", "--single-item", "--force", "report")) == ["report"]

    monkeypatch.chdir(project.folder)
    client = MlflowClient(tracking_uri())
    (run,) = client.search_runs([experiment_id(client, "shakespeare-gpt")])
    assert run.info.status == "FINISHED"
    assert run.info.run_id in {path.name for path in (project.folder / "mlartifacts").iterdir()}
    status = subprocess.run(["git", "status", "--porcelain"], cwd=project.folder, capture_output=True, check=True)
    assert [line for line in status.stdout.decode().splitlines() if line.startswith("??")] == ["?? dvc.lock"]
    # MLflow makes the parent of a database by its quoted name, and leaves it empty.
    quoted = top / name.replace("?", "%3F")
    if quoted != top / name and quoted.exists():
        quoted.rmdir()
    assert {path.name for path in top.iterdir()} <= beside | {"cache", "dvc-site"}, "nothing beside the project"
