"""Killed at random instants, also inside a save, a run ends with the bytes of one that was left alone.

Once on small models, for many kills, and once on the committed params.yaml's own settings, with and without other work beside it.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from gpt import paths
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.steps.compilation import missing_for_compile
from tests.chaos.conftest import Family, all_cores_busy, checkpoint_folder, start_training
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
SLOWED = 3.0  # by other work on all cores, about
WEIGHTS = paths.BASE_MODEL / "model.safetensors"


@dataclass
class Killer:
    instants: random.Random
    family: Family
    inside_a_save: int = 0
    elsewhere: int = 0

    @property
    def kills(self) -> int:
        return self.inside_a_save + self.elsewhere

    def train_and_kill(self, latest_seconds: float = LATEST_SECONDS, *, after_the_first_save: bool = False) -> bool:
        """Start training and kill it somewhere; return whether it had ended before."""
        process = start_training(self.family)
        if after_the_first_save or self.instants.random() < SHARE_INSIDE_A_SAVE:
            while process.poll() is None and not self._is_saving(after_the_first_save):
                time.sleep(0.0005)
            time.sleep(self.instants.uniform(0, 0.005))
        else:
            deadline = time.monotonic() + self.instants.uniform(0, latest_seconds)
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

    def _is_saving(self, after_the_first: bool = False) -> bool:
        folder = checkpoint_folder(Path.cwd())
        if folder is None or (after_the_first and not checkpoints.steps(folder)):
            return False
        return any(folder.glob(".partial_*"))


def damage_newest(folder: Path, turn: int) -> bool:
    """Damage the newest checkpoint, another file in another way each turn; return whether there was one."""
    if not (saved := checkpoints.steps(folder)):
        return False
    files = sorted(saved[-1].iterdir())
    file = files[turn % len(files)]
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    match turn % 3:
        case 0:
            data[middle] ^= 1
            file.write_bytes(data)
        case 1:
            file.write_bytes(data[:middle])
        case _:
            file.unlink()
    return True


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
        expected = WEIGHTS.read_bytes()
        folder = make_prepared_project(f"killed_{number}", **change)
        before, has_ended = killer.kills, False
        while killer.kills < before + each and not has_ended:
            has_ended = killer.train_and_kill()
        if not has_ended:
            process = start_training(family)
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
        assert WEIGHTS.read_bytes() == expected
        left = checkpoint_folder(folder)
        assert left is None or not checkpoints.steps(left)
        if number >= fewest and killer.kills >= wanted and killer.inside_a_save >= 0.3 * wanted:
            print(f"{killer.kills} kills in {number} runs, {killer.inside_a_save} inside a save")
            break
        assert number < 4 * fewest, f"{killer.kills} kills, {killer.inside_a_save} inside a save"
    assert not family.alive()


@dataclass(frozen=True)
class Whole:
    """A run on the committed settings that was left alone."""

    steps: int
    seconds: float
    weights: bytes


WHOLE: list[Whole] = []
"The same for a machine that is idle and for one that is busy: that is the promise."


@pytest.mark.parametrize("beside", ["nothing else", pytest.param("busy cores", marks=pytest.mark.long)])
def test_on_the_committed_settings_kills_damage_and_other_work_change_no_byte(
    make_default_project: Callable[..., Path],
    family: Family,
    instants: random.Random,
    option: Callable[[str], int],
    beside: str,
) -> None:
    wanted = -(-option("kills") // 2)  # the other half is the other case's
    if not WHOLE:
        steps = 20 if wanted < 10 else 60
        make_default_project("whole", max_steps=steps)
        started = time.monotonic()
        _, errors = start_training(family).communicate(timeout=600)
        WHOLE.append(Whole(steps, time.monotonic() - started, WEIGHTS.read_bytes()))
    (whole,) = WHOLE
    latest = whole.seconds * (SLOWED if beside == "busy cores" else 1.0)
    killer, runs_killed, damaged = Killer(instants, family), 0, 0
    with all_cores_busy(beside == "busy cores"):
        while killer.kills < wanted:
            runs_killed += 1
            folder = make_default_project(f"killed_{runs_killed}", max_steps=whole.steps)
            has_ended = is_damaged = False
            while killer.kills < wanted and not has_ended:
                has_ended = killer.train_and_kill(latest, after_the_first_save=killer.kills == 0)
                found = checkpoint_folder(folder)
                is_damaged = found is not None and damage_newest(found, killer.kills)
                damaged += is_damaged
            if not has_ended:
                process = start_training(family)
                _, errors = process.communicate(timeout=600)
                assert process.returncode == 0, errors
                assert ("is damaged" in errors) == is_damaged
            assert WEIGHTS.read_bytes() == whole.weights
    print(
        f"{killer.kills} kills in {runs_killed} runs, {killer.inside_a_save} inside a save, {damaged} checkpoints damaged"
    )
    assert damaged
    assert not family.alive()
