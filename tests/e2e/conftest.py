"""A copy of this project with small settings, run as a user runs it: real DVC, real Prefect, real MLflow, real processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gpt.files import sha256_tree
from tests import ROOT
from tests.conftest import make_text, merge, small_change, write_params
from tests.training.conftest import TRAIN

PATIENCE_SECONDS = 1200
"After it a command counts as hanging, beside other work too."


@dataclass(frozen=True)
class Project:
    folder: Path
    environment: dict[str, str]
    python: str = sys.executable

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a Python module of the project's environment, output and errors together."""
        return subprocess.Popen(
            [self.python, "-m", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """Run a Python module to its end and return what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == exit_code, output
        return output

    def git(self, *arguments: str) -> str:
        """Run git in the project's folder and return what it printed."""
        command, environment = ["git", *arguments], self.environment
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def change(self, **change: dict[str, object]) -> None:
        """Set values in params.yaml."""
        values = self.params()
        merge(values, change)
        with (self.folder / "params.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(values, file)

    def params(self) -> dict[str, Any]:
        return YAML().load((self.folder / "params.yaml").read_text(encoding="utf-8"))

    def stages_run(self, output: str) -> list[str]:
        """The stages that `dvc repro` says it ran."""
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]

    def locked_outputs(self) -> dict[str, str]:
        """Hash of every output in dvc.lock, by path."""
        lock = YAML(typ="safe").load((self.folder / "dvc.lock").read_text(encoding="utf-8"))
        return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}

    def weights(self) -> bytes:
        return (self.folder / "models/base/model.safetensors").read_bytes()

    def hash_of(self, name: str) -> str:
        return sha256_tree(self.folder / name)


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's folder for the whole session: its database takes seconds to make."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def make_project(tmp_path: Path, prefect_home: Path, empty_store: Path) -> Callable[..., Project]:
    """Return a function that copies the repository's tracked files to a folder of their own, with small settings."""
    return partial(build_project, tmp_path, prefect_home, empty_store)


def build_project(
    top: Path, prefect_home: Path, store: Path, name: str = "a project, ü", **change: dict[str, object]
) -> Project:
    """Copy the repository's tracked files to the folder `name` of `top`, beside a text, with small settings and `change`."""
    folder = top / name
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in filter(None, tracked.stdout.split("\0")):
        if (ROOT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, folder / path)
    (folder / "dvc.lock").unlink(missing_ok=True)
    make_text(top / "text.jsonl")
    small = small_change(top / "text.jsonl")
    small["train"] |= TRAIN
    write_params(folder, small)
    shutil.copyfile(store, folder / "mlflow.db")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    project = Project(folder, environment_of(folder, prefect_home))
    project.change(**change)
    return project


def environment_of(folder: Path, prefect_home: Path) -> dict[str, str]:
    """Return the variables with which the commands of a project run that lies in `folder`."""
    environment = {
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,
        "PREFECT_HOME": str(prefect_home),
        "GPT_CACHE": str(folder.parent / "cache"),
        "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site"),
        "PYTHONPATH": str(folder),
    }
    for unwanted in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        environment.pop(unwanted, None)
    return environment


def register(project: Project, version: int = 1) -> None:
    """Run all stages, and register what they have made."""
    project.run("dvc", "repro")
    assert f"shakespeare-gpt/{version} registered" in project.run("gpt", "register")


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path, empty_store: Path) -> Path:
    """A folder with a text and beside it a project that was trained on it and registered. To copy, not to change."""
    top = tmp_path_factory.mktemp("registered")
    project = build_project(top, prefect_home, empty_store)
    source = dict(project.params()["fetch"]["sources"][0]) | {"path": "../text.jsonl"}
    project.change(fetch={"sources": [source]}, register={"gate": {"max_bits_per_byte": 8.0}})
    register(project)
    return top


@pytest.fixture
def copy_registered(registered: Path, tmp_path: Path, prefect_home: Path) -> Callable[[str], Project]:
    """Return a function that copies the registered project and its text into a folder of the test's own."""

    def copy(name: str) -> Project:
        shutil.copytree(registered, tmp_path / name, symlinks=True)
        folder = tmp_path / name / "a project, ü"
        return Project(folder, environment_of(folder, prefect_home))

    return copy
