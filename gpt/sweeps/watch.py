"""The validations of a trial while it trains, from the journal that the trainer writes for MLflow.

It is the first place where one is written down, and one that a kill leaves whole; plots/validation.csv comes with the model only.
"""

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.tracking.pages.source import TRIAL_TAG
from gpt.tracking.spool import read_events

_CURVE = "validation/bits_per_byte"
"As a journal names the column validation_bits_per_byte."


class Watch:
    """Tells `measured` each validation of the trial `key`: its step, and bits per byte."""

    def __init__(self, spool: Path, key: str, measured: Callable[[int, float], None]) -> None:
        self._spool, self._key, self._measured = spool, key, measured
        self._journal: Path | None = None
        self._offset = 0

    def look(self) -> None:
        """Tell what is new."""
        self._journal = self._journal or find_journal(self._spool, self._key)
        if self._journal is None:
            return
        try:
            events = list(read_events(self._journal, self._offset))
        except FileNotFoundError:  # delivered, and removed: plots/ have all of it
            return
        for event in events:
            self._offset = event["end_offset"]
            if event["kind"] == "metrics" and _CURVE in event["values"]:
                self._tell(int(event["step"]), float(event["values"][_CURVE]))

    def finish(self, project: Path) -> None:
        """Tell what a finished training has written, of which a restored one has told nothing."""
        for row in read_curve(project):
            self._tell(int(float(row["step"])), float(row["validation_bits_per_byte"]))

    def _tell(self, step: int, value: float) -> None:
        if math.isfinite(value):  # no pruner compares what is no number; training itself ends such a run
            self._measured(step, value)


def find_journal(spool: Path, key: str) -> Path | None:
    """Return the journal of a trial's run, None if its training has not begun, or if all of it has arrived."""
    for journal in sorted(spool.glob("*.jsonl")):
        for event in _beginning(journal):
            if event["kind"] == "tags" and event["values"].get(TRIAL_TAG) == key:
                return journal
    return None


def _beginning(journal: Path) -> Iterator[dict[str, Any]]:
    """Yield the events before the first measurement: who it is stands among them."""
    try:
        for event in read_events(journal):
            if event["kind"] == "metrics":
                return
            yield event
    except FileNotFoundError:
        return


def read_curve(project: Path) -> list[dict[str, str]]:
    """Return the rows of plots/validation.csv, none if training has not ended."""
    path = project / paths.VALIDATION_PLOT
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
