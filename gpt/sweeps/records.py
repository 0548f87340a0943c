"""What is known of a sweep's trials: a file for each, whole or not at all, in .cache/sweeps/NAME/. They outlive any kill.

A trial is waiting, then running, then complete, pruned or failed; what has ended stays as it ended. Who works on one holds its
lock, which the kernel gives back however that process dies: a trial that is running and not locked was cut short, and goes on.
"""

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

from gpt import git
from gpt.errors import UserError
from gpt.files import parse_yaml, read_json, sha256_json, write_json
from gpt.locks import is_locked, locked, try_lock
from gpt.params.project import PARAMS_FILE
from gpt.paths import EXPERIMENTS, SWEEP_STATE

WAITING, RUNNING, COMPLETE, PRUNED, FAILED = "waiting", "running", "complete", "pruned", "failed"
ENDED = (COMPLETE, PRUNED, FAILED)
_NEXT = {
    WAITING: (RUNNING,),
    RUNNING: (RUNNING, *ENDED),
    COMPLETE: (),
    PRUNED: (),
    FAILED: (WAITING,),  # a person asks for it
}
_PATIENCE_SECONDS = 600.0


@dataclass
class Trial:
    """One trial: what it tries, and what came of it."""

    number: int
    "From 1."
    params: dict[str, Any]
    state: str = WAITING
    reason: str = ""
    "Why it was pruned or failed."
    value: float | None = None
    "Of the metric; of a pruned trial its last validation."
    curve: list[tuple[int, float]] = field(default_factory=list)
    "Step and validation in bits per byte."
    rungs: dict[str, float] = field(default_factory=dict)
    "What the pruner notes of it (successive halving)."
    starts: int = 0
    "How often it began: more than once if it was killed."
    begun: float = 0.0
    "Seconds since 1970, of the first start."
    seconds: float = 0.0
    "How long it ran, all starts together; of one that was killed up to its last validation."
    commit: str = ""
    "Of its DVC experiment, once that is recorded."
    run: str = ""
    "Of MLflow, once that knows how it ended."

    def go_to(self, state: str) -> None:
        """Change the state; raise `ValueError` for a change that there is not."""
        if state not in _NEXT[self.state]:
            raise ValueError(f"trial {self.number}: from {self.state} to {state}")
        self.state = state

    def step(self) -> int:
        """Return the last step at which it was validated."""
        return self.curve[-1][0] if self.curve else 0


@dataclass
class About:
    """What all trials of a sweep have in common."""

    id: str
    "Tells it from an earlier sweep of the same name."
    commit: str
    "From which every trial begins."
    sweep: dict[str, Any]
    "The file that it began with."


class Records:
    """The files of one sweep."""

    def __init__(self, name: str, root: Path = SWEEP_STATE) -> None:
        self.name = name
        self.folder = root / name

    def experiment(self, number: int) -> str:
        """Return what DVC and MLflow call a trial."""
        return f"{self.name}-{number:03d}"

    def log(self, number: int) -> Path:
        return self.folder / f"trial_{number:03d}.log"

    def has_begun(self) -> bool:
        return (self.folder / "sweep.json").exists()

    def begin(self, sweep: dict[str, Any], commit: str) -> About:
        """Return what was noted when the sweep began, noting it if it begins now.

        Raises `UserError` if its file has changed since in anything but the number of trials.
        """
        path = self.folder / "sweep.json"
        if not path.exists():
            about = About(uuid.uuid4().hex[:12], commit, sweep)
            write_json(path, asdict(about))
            return about
        about = self.about()
        if not _is_same(about.sweep, sweep):
            raise UserError(
                f"sweeps/{self.name}.yaml: has changed since this sweep began, and its trials would not compare; give the new"
                f" one another name, or forget the old one: `gpt sweep forget {self.name}`"
            )
        if about.sweep != sweep:
            about.sweep = sweep
            write_json(path, asdict(about))
        return about

    def about(self) -> About:
        """Return what was noted when the sweep began; raise `UserError` if it has not begun."""
        hint = f"run `gpt sweep run {self.name}` again"
        return About(**read_json(self.folder / "sweep.json", hint, [each.name for each in fields(About)]))

    def settings(self) -> dict[str, Any]:
        """Return params.yaml of the commit that the sweep began from, parsed."""
        commit = self.about().commit
        content = git.read_file(Path.cwd(), commit, PARAMS_FILE)
        if content is None:
            raise UserError(f"sweep {self.name}: began from commit {commit[:7]}, which has no {PARAMS_FILE} any more")
        return parse_yaml(content.decode())

    def trials(self) -> list[Trial]:
        """Return the trials that were suggested so far, by number."""
        found = [path for path in self.folder.glob("trial_*.json") if re.fullmatch(r"trial_\d+\.json", path.name)]
        return sorted((self._read(path) for path in found), key=lambda trial: trial.number)

    def trial(self, number: int) -> Trial:
        """Return one trial; raise `UserError` if there is none of that number."""
        path = self._path(number)
        if not path.exists():
            numbers = [trial.number for trial in self.trials()]
            known = f"there are 1 to {numbers[-1]}" if numbers else f"none has begun; `gpt sweep run {self.name}`"
            raise UserError(f"sweep {self.name}: has no trial {number}; {known}")
        return self._read(path)

    def write(self, trial: Trial) -> None:
        write_json(self._path(trial.number), asdict(trial))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the sweep, for the moment that handing out a trial takes."""
        path = self.folder / "sweep.lock"
        with locked(path, _PATIENCE_SECONDS, lambda who: f"sweep {self.name}: {who} holds {path}; stop it if it hangs"):
            yield

    def try_to_hold(self, number: int) -> TextIO | None:
        """Take a trial's lock; None if a living process has it."""
        return try_lock(self._lock(number))

    def is_held(self, number: int) -> bool:
        return is_locked(self._lock(number))

    def data_lock(self) -> Path:
        """Return what a trial holds while it makes data: another one that needs the same finds them."""
        return self.folder / "data.lock"

    def forget(self) -> None:
        """Remove all that is known of the sweep here; raise `UserError` while it runs."""
        with self.alone():
            for trial in self.trials():
                if self.is_held(trial.number):
                    raise UserError(
                        f"sweep {self.name}: trial {trial.number} runs; stop `gpt sweep run {self.name}` first"
                    )
            for folder in (self.folder, EXPERIMENTS / "sweeps" / self.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"trial_{number:03d}.json"

    def _lock(self, number: int) -> Path:
        return self.folder / f"trial_{number:03d}.lock"

    def _read(self, path: Path) -> Trial:
        values = read_json(path, f"remove it: `gpt sweep run {self.name}` runs that trial anew", ["number", "params"])
        known = {each.name for each in fields(Trial)}
        trial = Trial(**{key: value for key, value in values.items() if key in known})
        trial.curve = [(int(step), float(value)) for step, value in trial.curve]
        return trial


def best(trials: list[Trial], direction: str) -> Trial | None:
    """Return the complete trial with the best value, the first of equal ones."""
    complete = [trial for trial in trials if trial.state == COMPLETE and trial.value is not None]
    sign = 1 if direction == "minimize" else -1
    return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def _is_same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two files differ in nothing but how many trials there are: more may follow."""
    return sha256_json({**before, "trials": 0}) == sha256_json({**after, "trials": 0})
