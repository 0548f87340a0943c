"""Versions of the data as a user keeps them: DVC stages, a remote, another machine, and what changed since a commit."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt.files import read_json, sha256_file
from tests.e2e.conftest import Project

COUNTS = ("data/prepare.json", "data/tokenize.json")
DATA = (
    "data/raw",
    "data/benchmarks",
    "data/documents",
    "data/tokens",
    "models/tokenizer",
    "reports/data.html",
    *COUNTS,
)
STATUS = ("dvc", "status", "data_card", "--with-deps")


def commit(project: Project) -> None:
    for command in (["add", "-A"], ["commit", "-qm", "data"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *command], cwd=project.folder, check=True)


def state(project: Project) -> dict[str, str]:
    paths = {name: project.folder / name for name in DATA}
    return {name: project.hash_of(name) if path.is_dir() else sha256_file(path) for name, path in paths.items()}


@pytest.mark.slow
def test_what_was_pushed_comes_back_the_same_and_a_diff_says_what_changed(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = make_project()
    project.run("dvc", "repro", "data_card")
    project.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"))
    commit(project)
    pushed = state(project)
    project.run("dvc", "push")

    for name in (*DATA, ".dvc/cache"):
        path = project.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(tmp_path / "dvc-site")  # as on another machine
    project.run("dvc", "pull", *DATA)
    assert state(project) == pushed
    assert project.stages_run(project.run("dvc", "repro", "data_card")) == ["inputs"]
    assert project.run(*STATUS).split() == ["inputs:", "always", "changed"]

    text = tmp_path / "text.jsonl"
    with text.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "a new document that nobody has seen"}) + "\n")
    (source,) = project.params()["fetch"]["sources"]
    project.change(fetch={"sources": [source | {"sha256": sha256_file(text)}]})
    project.run("dvc", "repro", "data_card")
    commit(project)
    lines = project.run("gpt", "data", "diff", "HEAD~1").splitlines()
    assert f"  ~ made-up: sha256 {source['sha256']} → {sha256_file(text)}" in lines
    assert sum(line.endswith(" the same") and "1 added, 0 removed" in line for line in lines) == 1
    assert project.run("gpt", "data", "diff").splitlines()[0] == "sources: the same"

    subprocess.run(["git", "checkout", "-q", "HEAD~1"], cwd=project.folder, check=True)
    project.run("dvc", "checkout", *DATA)
    assert state(project) == pushed, "an earlier commit brings its data back"
    assert read_json(project.folder / "data/documents/report.json", "")["counts"]["read"]["documents"] == 100
