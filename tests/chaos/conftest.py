"""Real faults at random instants. Short by default; `--chaos-kills`, `--chaos-stops` and `--chaos-outage` make it long."""

import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from gpt import paths
from gpt.files import sha256_file
from gpt.params.project import load_params
from gpt.sources import benchmarks
from gpt.sources import fetch as sources
from gpt.training.checkpoints.stable import STABLE
from tests import ROOT
from tests.conftest import Change, prepare_data, write_params
from tests.e2e.conftest import make_project, prefect_home
from tests.living import command_of, is_alive, variables_of
from tests.training.conftest import make_project as make_prepared_project

__all__ = ["make_prepared_project", "make_project", "prefect_home"]


@pytest.fixture
def instants(request: pytest.FixtureRequest) -> random.Random:
    """Where a test takes its random instants from; its seed is printed when the test fails."""
    seed = request.config.getoption("--chaos-seed") or random.SystemRandom().randrange(2**31)
    print(f"to choose the same instants: --chaos-seed {seed}")
    return random.Random(f"{seed} {request.node.name}")


class Family:
    """All processes that a test starts, found by a mark in their environment, however they were started."""

    def __init__(self) -> None:
        self.environment = {"GPT_CHAOS_TEST": uuid.uuid4().hex}

    def alive(self) -> list[psutil.Process]:
        ((name, value),) = self.environment.items()
        of_the_test = [process for process in psutil.process_iter() if variables_of(process).get(name) == value]
        return [process for process in of_the_test if is_alive(process)]

    def wait_until_gone(self, seconds: float) -> float:
        """Return how long it took until none was left; raise `AssertionError` if that takes longer than `seconds`."""
        begun = time.monotonic()
        while alive := self.alive():
            waited = time.monotonic() - begun
            assert waited < seconds, [(process.pid, command_of(process)) for process in alive]
            time.sleep(0.05)
        return time.monotonic() - begun


@pytest.fixture
def family() -> Family:
    return Family()


@contextmanager
def all_cores_busy(is_wanted: bool = True) -> Iterator[None]:
    """Keep every core that this process may use busy with a process of its own, if that is wanted."""
    burn = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    burners = [subprocess.Popen(burn) for _ in os.sched_getaffinity(0) if is_wanted]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@pytest.fixture(autouse=True)
def busy_cores(option: Callable[[str], int]) -> Iterator[None]:
    """With `--chaos-busy`, every test runs beside processes that keep all cores busy."""
    with all_cores_busy(bool(option("busy"))):
        yield


def default_change(text: Path, **train: object) -> Change:
    """Return what makes the committed params.yaml one of a run without a network, on the file `text`, of a few steps.

    Model, optimizer, schedule, precision, batch, tokenizer and everything else stay as they are committed.
    """
    source = {"name": "made-up", "kind": "local", "path": str(text), "sha256": sha256_file(text), "licence": "none"}
    return {
        "fetch": {"sources": [source], "benchmarks": []},
        "evaluate": {"benchmarks": []},
        "train": {"eval_interval": 40, "sample_interval": 1000, "checkpoint_interval": 5, **train},
    }


def make_words(path: Path) -> None:
    """Write text with words enough for the committed tokenizer's vocabulary, and documents enough for every split."""
    chance = random.Random(0)
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(3000)]
    documents = (" ".join(chance.choices(words, k=150)) for _ in range(240))
    path.write_text("".join(f'{{"text": "{document}"}}\n' for document in documents), encoding="utf-8")


@pytest.fixture(scope="session")
def default_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on the committed settings in which every stage up to tokenize has run, on made-up text. To copy."""
    folder = tmp_path_factory.mktemp("default")
    make_words(folder / "text.jsonl")
    write_params(folder, default_change(folder / "text.jsonl"))
    params = load_params(folder / "params.yaml")
    sources.fetch(params.fetch.sources, folder / paths.RAW)
    benchmarks.build_benchmarks(params.fetch.benchmarks, folder / paths.BENCHMARKS)
    prepare_data(folder)
    return folder


@pytest.fixture
def make_default_project(
    default_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> Callable[..., Path]:
    """Return a function that makes a project of the committed settings, some of `train` changed, and goes there."""
    monkeypatch.delenv("OMP_NUM_THREADS")  # this model is a user's: as many threads as it would have there

    def make(name: str, **train: object) -> Path:
        folder = tmp_path / name
        for part in ("data", "models"):
            shutil.copytree(default_data / part, folder / part)
        shutil.copyfile(empty_store, folder / "mlflow.db")
        write_params(folder, default_change(default_data / "text.jsonl", **train))
        monkeypatch.chdir(folder)
        return folder

    return make


@pytest.fixture
def option(request: pytest.FixtureRequest) -> Callable[[str], int]:
    return lambda name: request.config.getoption(f"--chaos-{name}")  # pyright: ignore[reportReturnType]


def checkpoint_folder(project: Path) -> Path | None:
    """Return the folder of the only run that has checkpoints in a project, None before there is one."""
    return next((path for path in project.glob("checkpoints/*") if path.name != STABLE), None)


def environment(family: Family, **variables: str) -> dict[str, str]:
    return {**os.environ, **family.environment, **variables}


def start_training(family: Family, *before: str, **variables: str) -> "subprocess.Popen[str]":
    """Start `gpt pretrain` in the current folder; `before` is what the command is an argument of."""
    command = [*before, sys.executable, "-m", "gpt", "pretrain"]
    variables = environment(family, PYTHONPATH=str(ROOT), **variables)
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
