"""Killed at random instants, also inside a save, a run ends with the bytes of one that was left alone."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from gpt import paths
from gpt.training import checkpoint as checkpoints
from gpt.training.compilation import missing_for_compile
from tests.chaos.conftest import Family, checkpoint_folder, start_training
from tests.conftest import Change

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

SETTINGS = (
    {"micro_batch_size": 8, "compile": False},
    {"micro_batch_size": 4, "compile": False},
    {"micro_batch_size": 2, "compile": False},
    {"micro_batch_size": 1, "compile": False},
    {"micro_batch_size": 8, "compile": True},
)
SHARE_INSIDE_A_SAVE = 0.4
LATEST_SECONDS = 9.0  # of a random kill: half of them hit the start


@dataclass
class Killer:
    instants: random.Random
    family: Family
    inside_a_save: int = 0
    elsewhere: int = 0

    @property
    def kills(self) -> int:
        return self.inside_a_save + self.elsewhere

    def train_and_kill(self) -> bool:
        """Start training and kill it somewhere; return whether it had ended before."""
        process = start_training(self.family)
        if self.instants.random() < SHARE_INSIDE_A_SAVE:
            while process.poll() is None and not self._is_saving():
                time.sleep(0.0005)
            time.sleep(self.instants.uniform(0, 0.005))
        else:
            deadline = time.monotonic() + self.instants.uniform(0, LATEST_SECONDS)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, errors
            return True
        if self._is_saving():
            self.inside_a_save += 1
        else:
            self.elsewhere += 1
        return False

    def _is_saving(self) -> bool:
        folder = checkpoint_folder(Path.cwd())
        return folder is not None and any(folder.glob(".partial_*"))


def runs(fewest: int) -> Iterator[tuple[int, Change]]:
    """Yield settings with a seed of their own each, over and over; `compile` only where there is a compiler."""
    usable = [launch for launch in SETTINGS[:fewest] if not launch["compile"] or missing_for_compile() is None]
    for number in count(1):
        yield number, {"base": {"seed": number}, "launch": dict(usable[(number - 1) % len(usable)])}


def test_killed_at_any_instant_a_run_ends_with_the_same_bytes(
    make_prepared_project: Callable[..., Path],
    family: Family,
    instants: random.Random,
    option: Callable[[str], int],
) -> None:
    killer, wanted = Killer(instants, family), option("kills")
    fewest = len(SETTINGS) if wanted >= 25 else 1
    each = -(-wanted // fewest)
    train = {"max_steps": 150 * each, "checkpoint_interval": 10, "eval_interval": 200, "log_interval": 10}
    for number, change in runs(fewest):
        change |= {"train": train, "model": {"n_embd": 64, "n_layer": 2, "dropout": 0.1}}
        make_prepared_project(f"whole_{number}", **change)
        process = start_training(family)
        assert process.wait(600) == 0
        expected = (paths.BASE_MODEL / "model.safetensors").read_bytes()
        folder = make_prepared_project(f"killed_{number}", **change)
        before, has_ended = killer.kills, False
        while killer.kills < before + each and not has_ended:
            has_ended = killer.train_and_kill()
        if not has_ended:
            process = start_training(family)
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
        assert (paths.BASE_MODEL / "model.safetensors").read_bytes() == expected
        left = checkpoint_folder(folder)
        assert left is None or not checkpoints.steps(left)
        if number >= fewest and killer.kills >= wanted and killer.inside_a_save >= 0.3 * wanted:
            print(f"{killer.kills} kills in {number} runs, {killer.inside_a_save} inside a save")
            break
        assert number < 4 * fewest, f"{killer.kills} kills, {killer.inside_a_save} inside a save"
    assert not family.alive()
