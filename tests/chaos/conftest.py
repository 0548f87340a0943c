"""Real faults at random instants. Short by default; `--chaos-kills`, `--chaos-stops` and `--chaos-outage` make it long."""

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import make_project, prefect_home
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
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_until_gone(self, seconds: float) -> float:
        """Return how long it took until none was left; raise `AssertionError` if that takes longer than `seconds`."""
        begun = time.monotonic()
        while alive := self.alive():
            waited = time.monotonic() - begun
            assert waited < seconds, [(process.pid, process.cmdline()) for process in alive]
            time.sleep(0.05)
        return time.monotonic() - begun


@pytest.fixture
def family() -> Family:
    return Family()


@pytest.fixture
def option(request: pytest.FixtureRequest) -> Callable[[str], int]:
    return lambda name: request.config.getoption(f"--chaos-{name}")  # pyright: ignore[reportReturnType]


def checkpoint_folder(project: Path) -> Path | None:
    """Return the folder of the only run that has checkpoints in a project, None before there is one."""
    return next(iter(project.glob("checkpoints/*")), None)


def environment(family: Family, **variables: str) -> dict[str, str]:
    return {**os.environ, **family.environment, **variables}


def start_training(family: Family, *before: str, **variables: str) -> "subprocess.Popen[str]":
    """Start `gpt pretrain` in the current folder; `before` is what the command is an argument of."""
    command = [*before, sys.executable, "-m", "gpt", "pretrain"]
    variables = environment(family, PYTHONPATH=str(ROOT), **variables)
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
