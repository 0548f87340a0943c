"""What the runs of this project tell, read from their journals in `spool/` as it is appended: training knows nothing of it.

A look reads what is new and no more. A run is alive while its checkpoint folder is locked, however its process ended. Its journal
goes once it has ended and MLflow has everything; what runs is in the spool whatever becomes of the server.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from gpt.locks import is_locked
from gpt.paths import CHECKPOINTS, SPOOL
from gpt.tracking.spool import Event, read_events

_STALLED_SECONDS = 600.0
_NOW_SECONDS = 300.0
_HOUR_SECONDS = 3600.0
_FEWEST = 5  # rows by which one may say how fast it was


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
    speeds: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=4000))
    "Tokens per second, with when they were told."
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

    def lives_since(self) -> float | None:
        """Return when its trainer took its lock, None if none lives."""
        try:
            return self.lock.stat().st_mtime if is_locked(self.lock) else None
        except FileNotFoundError:
            return None

    def silence_seconds(self) -> float:
        """Return for how long it has told of no step. A trainer that reads its data has not told yet that it goes on."""
        return max(0.0, time.time() - max(self.told, self.lives_since() or 0))

    def is_stalled(self) -> bool:
        """Whether it is silent for three times as long as it ever was, ten minutes at the least, and may not be repeating steps."""
        repeating = self.repeated_steps * (median(self.step_seconds) if self.step_seconds else 0.0)
        return self.silence_seconds() > max(_STALLED_SECONDS, 3 * (max(self.silences, default=0.0) + repeating))

    def is_slower(self) -> bool:
        """Whether the last five minutes made a third less than the hour before; False where less is known."""
        if not self.speeds or self.speeds[-1][0] - self.speeds[0][0] < 2 * _NOW_SECONDS:
            return False
        newest = self.speeds[-1][0]
        recent = [speed for told, speed in self.speeds if told > newest - _NOW_SECONDS]
        before = [speed for told, speed in self.speeds if newest - _HOUR_SECONDS < told <= newest - _NOW_SECONDS]
        return len(before) >= _FEWEST and median(recent) < 2 / 3 * median(before)

    def follow(self, event: Event) -> None:
        """Take in the next event of the journal."""
        now = event.get("time_ms", 0) / 1000
        match event["kind"]:
            case "start" | "resume":
                self.experiment = event.get("experiment", self.experiment)
                self.fingerprint = event.get("fingerprint", self.fingerprint)
                self.told, self.status, self._last_row, self._is_silent = now, "", None, True
                self.speeds.clear()  # what it makes after a stop, it may make elsewhere
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
            self.speeds.append((now, values["system/tokens_per_second"]))


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
