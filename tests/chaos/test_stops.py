"""Signals at random instants to each of the commands that train: the state is saved, nothing is left, the next start goes on."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from flows.upkeep.workspace import wait_for_others
from gpt.training.checkpoints import checkpoint as checkpoints
from tests.chaos.conftest import Family, checkpoint_folder
from tests.e2e.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

REPRO = ("dvc", "--wait-for-lock", "repro")
# What is started, what goes on in the end, the signal, and the seconds from start to about the middle of what training takes.
PRETRAIN, FLOW = ("gpt", "pretrain"), ("flows.pretrain",)
COMMANDS = {
    "gpt pretrain": (PRETRAIN, PRETRAIN, signal.SIGTERM, 9),
    "dvc repro": (REPRO, REPRO, signal.SIGTERM, 12),
    "dvc repro, killed": (REPRO, REPRO, signal.SIGKILL, 12),
    "flow": (FLOW, FLOW, signal.SIGTERM, 25),
    "flow, killed": (FLOW, REPRO, signal.SIGKILL, 25),
}
LONG = ("gpt pretrain", "dvc repro", "flow, killed")
"Those that `make verify` alone tries: each command and each signal is in the others."
WHOLE: list[tuple[bytes, str]] = []
"Weights and plots of the run that was not stopped, the same for all commands."


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in COMMANDS])
def test_stopped_at_any_instant_it_saves_leaves_nothing_behind_and_goes_on(
    make_project: Callable[..., Project],
    family: Family,
    instants: random.Random,
    option: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    stops = option("stops")
    train = {"max_steps": 500 + 700 * stops, "checkpoint_interval": 50, "eval_interval": 500, "sample_interval": 500}
    change = {"train": train, "register": {"gate": {"max_bits_per_byte": 8.0}}}
    if not WHOLE:
        whole = make_project("whole", **change)
        whole.run(*REPRO)
        WHOLE.append((whole.weights(), whole.hash_of("plots")))
    project = make_project("stopped", **change)
    project = replace(project, environment=project.environment | family.environment)
    project.run("dvc", "repro", "tokenize")
    command, last_command, signum, latest = COMMANDS[name]
    latest_step, output = -1, ""
    for number in range(stops):
        process = project.start(*command)
        deadline = time.monotonic() + instants.uniform(0.5, latest)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is not None:
            output, _ = process.communicate()
            assert process.returncode == 0, output
            assert number, "it ended before the first stop"
            break
        process.send_signal(signum)
        told, _ = process.communicate(timeout=30)
        assert process.returncode in (128 + signum, -signum), told
        family.wait_until_gone(30)
        if last_command == REPRO:  # what the flow does by itself, and docs/operations.md tells people to do
            monkeypatch.chdir(project.folder)
            wait_for_others(print)
        folder = checkpoint_folder(project.folder)
        if folder is not None and (steps := checkpoints.steps(folder)):
            assert checkpoints.holder(folder) is None
            assert checkpoints.find_damage(steps[-1]) is None
            assert checkpoints.step_of(steps[-1]) >= latest_step
            latest_step = checkpoints.step_of(steps[-1])
    output += project.run(*last_command)  # nothing is left to do if the last one had come to its end
    assert latest_step < 0 or "resuming after step" in output
    assert (project.weights(), project.hash_of("plots")) == WHOLE[0]
    assert not family.alive()
