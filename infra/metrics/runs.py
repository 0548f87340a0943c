"""What the runs of this project tell, read from their journals in `spool/` as it is appended: training knows nothing of it.

A scrape reads what is new and no more. A run is alive while its checkpoint folder is locked, however its process ended. Its journal
goes once it has ended and MLflow has everything; what runs is in the spool whatever becomes of the server.
"""

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from gpt.locks import is_locked
from gpt.paths import CHECKPOINTS, SPOOL
from gpt.tracking.spool import Event, is_delivered, read_event, read_events, read_state
from infra.metrics.page import Page

STATES = {"FINISHED": "finished", "KILLED": "stopped", "FAILED": "failed"}
"By the status with which a journal ends; one that lives is running, and one that does neither is dead."
_MEGA = 1e6
# What a row's charts are called here, and their unit in ours.
_VALUES = {
    "train/loss": ("gpt_training_loss", 1.0),
    "train/learning_rate": ("gpt_training_learning_rate", 1.0),
    "train/gradient_norm": ("gpt_training_gradient_norm", 1.0),
    "system/tokens_per_second": ("gpt_training_tokens_per_second", 1.0),
    "system/mfu": ("gpt_training_mfu_ratio", 1.0),
    "system/peak_memory_megabytes": ("gpt_training_peak_memory_bytes", _MEGA),
    "validation/loss": ("gpt_training_validation_loss", 1.0),
    "validation/bits_per_byte": ("gpt_training_validation_bpb", 1.0),
}
# Told once there are some: before that there were none.
_COUNTS = {"train/skipped_steps": "gpt_training_skipped_steps", "train/rollbacks": "gpt_training_rollbacks"}


@dataclass
class Run:
    """What a journal has told so far; times are seconds since 1970, of the machine that trains."""

    name: str
    experiment: str = ""
    fingerprint: str = ""
    settings: dict[str, float] = field(default_factory=dict)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    "The last row of each group: train, validation, …."
    steps: dict[str, int] = field(default_factory=dict)
    "And the step that it is of."
    told: float = 0.0
    "When it last told of a step, or began to train."
    status: str = ""
    "With which it ended; empty: it has not."
    repeated_steps: int = 0
    silences: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    _last_row: tuple[float, int] | None = None
    _is_silent: bool = True
    "It has told of no step since it began or went on."

    @property
    def step(self) -> int:
        return self.steps.get("train", 0)

    @property
    def checkpoints(self) -> Path:
        return CHECKPOINTS / self.fingerprint

    @property
    def lock(self) -> Path:
        """What its trainer holds (gpt/training/checkpoints/checkpoint.py, which imports torch)."""
        return self.checkpoints / "lock"

    def follow(self, event: Event) -> None:
        """Take in the next event of the journal."""
        now = event.get("time_ms", 0) / 1000
        match event["kind"]:
            case "start" | "resume":
                self.experiment = event.get("experiment", self.experiment)
                self.fingerprint = event.get("fingerprint", self.fingerprint)
                self.told, self.status, self._last_row, self._is_silent = now, "", None, True
            case "params":
                self.settings |= {
                    key: value for key, value in event["values"].items() if isinstance(value, int | float)
                }
            case "tags" if self._is_silent and isinstance(resumed := event["values"].get("resumed_at_step"), int):
                self.repeated_steps = max(0, self.step - resumed)
            case "metrics":
                self._take_in(event.get("group", ""), event["step"], event["values"], now)
            case "end":
                self.status = event["status"]
            case _:
                pass

    def _take_in(self, group: str, step: int, values: dict[str, float], now: float) -> None:
        if not self._is_silent:
            self.silences.append(now - self.told)
        self.told, self.repeated_steps, self._is_silent = now, 0, False
        self.steps[group], self.rows[group] = int(step), {key: float(value) for key, value in values.items()}
        if group == "train" and "system/tokens_per_second" in values:  # rows of the run that it began from have none
            if self._last_row and step > self._last_row[1]:
                self.step_seconds.append((now - self._last_row[0]) / (step - self._last_row[1]))
            self._last_row = now, step


class Unreadable(Exception):
    """What of the spool could not be read, and why."""


class Spool:
    """The journals of this project, each read up to where it ended at the last look."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[int, int, Run]] = {}
        "By journal: its inode, how far it was read, and what it said."
        self._faults: list[str] = []

    def look(self) -> list[Run]:
        """Read what is new; return the runs that live and the one that told last, an ended or a dead one too."""
        journals = sorted(SPOOL.glob("*.jsonl"))
        self._read = {path: found for path in journals if (found := self._follow(path))}
        newest: dict[str, Run] = {}  # a training that was begun anew is another run of the same fingerprint
        for _, _, run in self._read.values():
            if run.fingerprint and run.told >= newest.get(run.fingerprint, run).told:
                newest[run.fingerprint] = run
        last = max(newest.values(), key=lambda run: (run.told, run.name), default=None)
        return [run for run in newest.values() if run is last or is_locked(run.lock)]

    def tell_faults(self) -> None:
        """Raise `Unreadable` if something could not be read since it was called last; all else was."""
        if faults := self._faults:
            self._faults = []
            raise Unreadable("; ".join(faults[:3]))

    def _follow(self, journal: Path) -> tuple[int, int, Run] | None:
        try:
            found = journal.stat()
            inode, offset, run = self._read.get(journal, (found.st_ino, 0, Run(journal.stem)))
            if inode != found.st_ino or offset > found.st_size:
                offset, run = 0, Run(journal.stem)  # another file of that name
            for event in read_events(journal, offset):
                try:
                    run.follow(event)
                except (
                    TypeError,
                    ValueError,
                    AttributeError,
                ) as error:  # of another form: by hand, or of a later release
                    self._faults.append(f"{journal} at byte {event['begin']}: {error}")
                offset = event["end_offset"]
        except FileNotFoundError:  # delivered meanwhile
            return None
        except OSError as error:
            self._faults.append(f"{journal}: {error.strerror}")
            return self._read.get(journal)
        return found.st_ino, offset, run


def add_runs(page: Page, spool: Spool) -> list[Run]:
    """Add what runs have told, and return those that were added."""
    runs = spool.look()
    page.add("gpt_trainers", sum(is_locked(lock) for lock in CHECKPOINTS.glob("*/lock")))
    for run in runs:
        _add_run(page, run)
    return runs


def add_waiting(page: Page) -> None:
    """Add how much of the journals the tracking server has not got, and for how long."""
    waiting, oldest = 0, time.time()
    for journal in SPOOL.glob("*.jsonl"):
        with suppress(FileNotFoundError):  # delivered meanwhile
            if is_delivered(journal):
                continue
            offset = read_state(journal).offset
            event = read_event(journal, offset) or {}
            waiting += journal.stat().st_size - offset
            oldest = min(oldest, event.get("time_ms", time.time() * 1000) / 1000)
    page.add("gpt_spool_undelivered_bytes", waiting)
    page.add("gpt_spool_waiting_seconds", max(0.0, time.time() - oldest) if waiting else 0)


def _add_run(page: Page, run: Run) -> None:
    labels = run.experiment, run.name
    began = _lives_since(run)
    state = "running" if began else STATES.get(run.status, "dead")
    for name in ("running", *STATES.values(), "dead"):
        page.add("gpt_training_state", name == state, *labels, name)
    page.add("gpt_training_step", run.step, *labels)
    page.add("gpt_training_max_steps", run.settings.get("train.max_steps"), *labels)
    page.add("gpt_checkpoint_interval_steps", run.settings.get("train.checkpoint_interval"), *labels)
    # A trainer that reads its data has not told that it goes on: what was told before says nothing of it.
    page.add("gpt_training_last_step_age_seconds", max(0.0, time.time() - max(run.told, began or 0)), *labels)
    page.add("gpt_training_longest_silence_seconds", max(run.silences, default=None), *labels)
    page.add("gpt_training_step_seconds", median(run.step_seconds) if run.step_seconds else None, *labels)
    page.add("gpt_training_repeated_steps", run.repeated_steps, *labels)
    page.add("gpt_training_validation_step", run.steps.get("validation"), *labels)
    values = {chart: value for row in run.rows.values() for chart, value in row.items()}
    for chart, (name, unit) in _VALUES.items():
        if chart in values:
            page.add(name, values[chart] * unit, *labels)
    for chart, name in _COUNTS.items():
        page.add(name, values.get(chart, 0), *labels)


def _lives_since(run: Run) -> float | None:
    """Return when the trainer of a run took its lock, None if none lives."""
    try:
        return run.lock.stat().st_mtime if is_locked(run.lock) else None
    except FileNotFoundError:
        return None
