"""A small project with real DVC stages, a Python environment whose `gpt` is a stub, and one Prefect server for all tests."""

import json
import os
import shlex
import shutil
import site
import sqlite3
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.server import embedded_server
from tests.living import is_alive

REPOSITORY = Path(__file__).parents[2]

# One-pixel PNG.
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001"
    "a5f645400000000049454e44ae426082"
)


@dataclass(frozen=True)
class Api:
    """The server of the tests and where it keeps its database."""

    url: str
    home: Path

    def post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data=data, headers={"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return json.load(answer)

    def copy_database(self, home: Path) -> None:
        """Give another home the tables of this one, to spare it their making."""
        home.mkdir()
        source, target = sqlite3.connect(self.home / "prefect.db"), sqlite3.connect(home / "prefect.db")
        source.backup(target)
        source.close()
        target.close()


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A Prefect server, started once."""
    home = tmp_path_factory.mktemp("prefect")
    env = environment() | {"PREFECT_HOME": str(home)}
    with embedded_server(env) as (url, wait_until_healthy):
        wait_until_healthy()
        yield Api(url, home)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with everything of ours, and with `$PROJECT/gpt-stub` as its `gpt`."""
    folder = tmp_path_factory.mktemp("an environment, ü")
    venv.EnvBuilder(symlinks=True).create(folder)
    packages = next(folder.glob("lib/python*/site-packages"))
    shared = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = [f"import site; site.addsitedir({path!r})" for path in shared]  # also reads their .pth files
    (packages / "shared.pth").write_text("\n".join([str(REPOSITORY), *lines]) + "\n")
    stub = folder / "bin" / "gpt"
    stub.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} ./gpt-stub "$@"\n')
    stub.chmod(0o755)
    return folder / "bin" / "python"


def environment() -> dict[str, str]:
    """The environment without what would lead a flow to another server or another project."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DVC_", "MLFLOW_"))}
    return kept | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DVC_NO_ANALYTICS": "1", "DVC_DAEMON": "1"}


@dataclass
class Project:
    """A folder with params.yaml, dvc.yaml and a `gpt-stub` that plays the stages."""

    root: Path
    python: Path
    env: dict[str, str]

    def start(self, *arguments: str, cwd: str = ".", **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(self.python), *arguments],
            cwd=self.root / cwd,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, cwd: str = ".", **env: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, cwd=cwd, **env)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def break_stage(self, name: str, code: str) -> None:
        """Let a stage do something else: Python code, run instead of the stub's."""
        (self.root / f"{name}.broken").write_text(code)


STUB = """\
import json, os, sys
from pathlib import Path

NAMES = {"fetch sources": "fetch", "fetch benchmarks": "fetch_benchmarks", "fetch weights": "fetch_weights"}
if sys.argv[1:3] == ["data", "hash"]:
    Path("accepted").touch()
    sys.exit()
name = NAMES.get(" ".join(sys.argv[1:]), sys.argv[1]).replace("-", "_")
broken = Path(f"{name}.broken")
if broken.exists():
    exec(broken.read_text())
OUTPUTS = {
    "fetch": "data/raw", "prepare": "data/documents", "tokenizer": "models/tokenizer", "tokenize": "data/tokens",
    "pretrain": "models/base", "evaluate": "reports/samples", "report": "reports/evaluate", "inputs": "data/inputs",
    "fetch_benchmarks": "data/benchmarks", "fetch_weights": "models/initial", "data_card": "reports/card",
}
if name == "register":
    print("registering")
    version = {"name": "tiny", "version": "1", "alias": "candidate", "run_id": "abc123"}
    print(json.dumps(version | {"tracking_uri": "sqlite:////project/mlflow.db", "experiment_id": "1"}))
    sys.exit()
folder = Path(OUTPUTS[name])
folder.mkdir(parents=True, exist_ok=True)
(folder / "out.txt").write_text(name)
print(f"{name} was here")
if name == "evaluate":
    split = {"documents": 2, "loss": 1.5, "perplexity": 4.48, "bits_per_byte": 2.1234}
    Path("metrics").mkdir(exist_ok=True)
    Path("reports/evaluate.json").write_text(json.dumps({"test": split, "validation": split}))
    Path("reports/samples.json").write_text(json.dumps([{"prompt": "To be", "completion": ", or not"}]))
if name == "report":
    (folder / "training.png").write_bytes(bytes.fromhex("%s"))
""" % _PNG.hex()  # noqa: UP031 (the stub is full of braces)

# A trainer that works until it is told to stop, and then saves.
ENDLESS = """
import signal, time
def save(*_):
    Path("saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
Path("training").touch()
while True:
    time.sleep(60)
"""


_DEPENDENCIES = {
    "inputs": [],
    "fetch": ["data/inputs"],
    "fetch_benchmarks": ["data/inputs"],
    "fetch_weights": ["data/inputs"],
    "prepare": ["data/raw", "data/benchmarks"],
    "tokenizer": ["data/documents"],
    "tokenize": ["data/documents", "models/tokenizer"],
    "pretrain": ["data/tokens", "models/tokenizer", "models/initial"],
    "data_card": ["data/tokens"],
    "evaluate": ["data/tokens", "models/base"],
    "report": ["reports/samples"],
}
_OUTPUTS = {
    "inputs": "data/inputs",
    "fetch_benchmarks": "data/benchmarks",
    "fetch_weights": "models/initial",
    "data_card": "reports/card",
    "report": "reports/evaluate",
    "fetch": "data/raw",
    "prepare": "data/documents",
    "tokenizer": "models/tokenizer",
    "tokenize": "data/tokens",
    "pretrain": "models/base",
    "evaluate": "reports/samples",
}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is before any work."""
    root = tmp_path_factory.mktemp("template")
    shutil.copy(REPOSITORY / "params.yaml", root)
    (root / "gpt-stub").write_text(STUB)
    stages = {
        name: {"cmd": r'"\${VIRTUAL_ENV}/bin/gpt" ' + name, "deps": needs, "outs": [_OUTPUTS[name]]}
        for name, needs in _DEPENDENCIES.items()
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    command = [sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"]
    subprocess.run(command, cwd=root, env=environment(), check=True)
    return root


@pytest.fixture
def project(tmp_path: Path, template: Path, python: Path, api: Api) -> Project:
    """A new project whose flows report to the server of the tests."""
    root = tmp_path / "a project, ü"
    shutil.copytree(template, root)
    env = environment() | {"PREFECT_API_URL": api.url, "PREFECT_HOME": str(tmp_path / "home")}
    return Project(root, python, env)


def tree(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """Return a function that waits for a condition and returns its first true value."""
    return _wait_for


def _wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value
