"""What the keeper sees besides flow runs, and tells as events: training, room on disks, changed sources, decisions on models.

Each is told once when it begins. What cannot be looked at is logged, once as long as the reason stays the same, and costs no other.
"""

import hashlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flows.upkeep.events import DATA_CHANGED, PREFIX, make_event
from flows.upkeep.journals import Run, Spool
from gpt import paths
from gpt.errors import UserError
from gpt.files import lenient_json, write_json
from gpt.secrets.hiding import redact

MEMORY = Path(".cache/keeper.json")
"What was told: the last decision on each model, the last state of the sources."

_FREE = 0.05  # of a disk
_CHECKPOINTS = 3
_RECOVERED = 1.2  # times that, before it is told again
_AGAIN_SECONDS = 3600.0  # what comes and goes is told once in this time
_SLOW_SECONDS = 60.0  # between looks at what takes seconds: a registry, the files of sources
_EVENTS = {
    "promoted": ("model.promoted", "the gate's figures: gpt lineage {name}/{version}"),
    "refused": ("model.refused", "the champion stays; the gate's figures: gpt lineage {name}/{version}"),
    "restored": ("model.restored", "who and why: gpt models {name} --history"),
}
"Of the verdicts of gpt/registry/trail.py."

logger = logging.getLogger(__name__)


class Watch:
    """Looks at the project in the current folder; what takes seconds is done in a thread, so that no server holds up the keeper."""

    def __init__(self) -> None:
        self._memory = lenient_json(MEMORY.read_bytes() if MEMORY.exists() else b"")
        self._kept = dict(self._memory)
        self._told: dict[tuple[str, str], float] = {}
        self._lasting: set[tuple[str, str]] = set()
        self._spool = Spool()
        self.runs: list[Run] = []
        "Those that train."
        self._changes: list[str] = []
        self._reasons: dict[str, str] = {}
        self._thread: threading.Thread | None = None
        self._found: list[Any] = []
        self._learnt: dict[str, Any] = {}
        self._looked = -_SLOW_SECONDS
        self.waiting: list[Any] = []
        "Events that were not told yet."

    def look(self) -> None:
        """Add the events that are new to those that wait."""
        self.waiting += [*self._try("the disks", self._disks), *self._try("the journals", self._training)]
        if self._thread is None or not self._thread.is_alive():
            self.waiting += self._found
            self._memory |= self._learnt
            self._found, self._learnt = [], {}
            if time.monotonic() - self._looked >= _SLOW_SECONDS:
                self._looked = time.monotonic()
                self._thread = threading.Thread(target=self._look_slowly, daemon=True)
                self._thread.start()

    def were_told(self) -> None:
        """Forget the events that waited, and remember what they were about: if we are killed before, they are found again."""
        self.waiting.clear()
        if self._memory != self._kept:
            write_json(MEMORY, self._memory)
            self._kept = dict(self._memory)

    def _look_slowly(self) -> None:
        """What the thread does. Its results are taken over when it has ended."""
        self._found = [*self._try("the sources", self._sources), *self._try("the registry", self._decisions)]

    def _try(self, what: str, look: Callable[[], Iterable[Any]]) -> list[Any]:
        found: list[Any] = []
        try:
            for event in look():
                found.append(event)
            self._reasons.pop(what, None)
        except Exception as error:  # a file that is being replaced, a server that is away: there is a next time
            reason = redact(f"{type(error).__name__}: {error}")
            if self._reasons.get(what) != reason:
                logger.warning("%s cannot be looked at: %s", what, reason)
            self._reasons[what] = reason
        return found

    def _training(self) -> Iterator[Any]:
        self.runs = [run for run in self._spool.look() if run.lives_since()]
        for run in self.runs:
            speed = run.speeds[-1][1] if run.speeds else 0.0
            facts = {
                "stalled": (
                    run.is_stalled(),
                    f"no step for {run.silence_seconds() / 60:.0f} minutes",
                    "its log may say why; `gpt checkpoints` says which process trains",
                ),
                "slower": (
                    run.is_slower(),
                    f"{speed:,.0f} tokens per second, a third less than before",
                    "look what else works on that machine",
                ),
            }
            for word, (is_so, message, advice) in facts.items():
                last = self._told.get((run.name, word), -_AGAIN_SECONDS)
                if is_so and (word, run.name) not in self._lasting and time.time() - last >= _AGAIN_SECONDS:
                    self._told[run.name, word] = time.time()
                    message = f"{run.name}, after step {run.step:,}: {message}"
                    yield make_event(f"{PREFIX}training.{word}", f"{run.name} {word} {run.told}", message, advice)
                (self._lasting.add if is_so else self._lasting.discard)((word, run.name))
        self._spool.tell_faults()

    def _disks(self) -> Iterator[Any]:
        places = [place for place in (Path.cwd(), Path(".dvc/cache"), paths.CHECKPOINTS) if place.exists()]
        for disk, place in {str(place.stat().st_dev): place for place in reversed(places)}.items():
            usage, full = shutil.disk_usage(place), self._memory.get("full_disks", {})
            least = max(_FREE * usage.total, _CHECKPOINTS * _newest_checkpoint_bytes())
            if usage.free < least and disk not in full:
                self._memory["full_disks"] = full | {disk: time.time()}
                message = f"{place.absolute()}: {_gigabytes(usage.free)} free of {_gigabytes(usage.total)}"
                about = f"{disk} {self._memory['full_disks'][disk]}"
                yield make_event(f"{PREFIX}disk.nearly-full", about, message, "gpt gc shows what can go")
            elif usage.free > _RECOVERED * least and disk in full:
                self._memory["full_disks"] = {other: since for other, since in full.items() if other != disk}

    def _sources(self) -> Iterator[Any]:
        """Compare the files of local sources with the hashes in params.yaml: others, twice the same, are new data."""
        from gpt.params.project import load_params
        from gpt.params.sources import LocalSource
        from gpt.sources.local import check_content

        sources = load_params().fetch.sources
        changes = [change for each in sources if isinstance(each, LocalSource) and (change := check_content(each))]
        settled, self._changes = changes == self._changes, changes
        state = hashlib.sha256("\n".join(changes).encode()).hexdigest()
        known = self._memory.get("sources", {})
        if settled and (state if changes else "") != known.get("state", ""):
            self._learnt["sources"] = {"state": state if changes else "", "times": known.get("times", 0) + 1}
            if changes:
                about = f"{Path.cwd()} {state} {known.get('times', 0)}"
                advice = "a run takes them into params.yaml and makes the model again; the gate judges it"
                yield make_event(DATA_CHANGED, about, "\n".join(changes), advice)

    def _decisions(self) -> Iterator[Any]:
        from gpt.maintenance.project import Project
        from gpt.params.project import load_params
        from gpt.registry.trail import audit_trail
        from gpt.tracking import store

        models = sorted(Project(load_params()).promoted)
        try:
            client = store.existing_client()
        except UserError:  # no run yet
            return
        learnt = dict(self._memory.get("decisions", {}))
        for name in models:
            with store.store_errors():
                trail = audit_trail(client, name)
            key = redact(f"{client.tracking_uri} {name}")
            known = learnt.get(key, math.inf)  # what was decided before we came is no news
            for decision in trail:
                if decision.number > known and decision.verdict in _EVENTS:
                    event, advice = _EVENTS[decision.verdict]
                    message = (
                        f"models:/{name}/{decision.version} was {decision.verdict} by {decision.by}: {decision.reason}"
                    )
                    advice = advice.format(name=name, version=decision.version)
                    yield make_event(PREFIX + event, f"{key} {decision.number}", message, advice)
            learnt[key] = trail[-1].number if trail else 0
            self._learnt["decisions"] = dict(learnt)


def _newest_checkpoint_bytes() -> int:
    saved = sorted(paths.CHECKPOINTS.glob("*/step_*"), key=lambda path: path.stat().st_mtime)
    return sum(file.stat().st_size for file in saved[-1].iterdir()) if saved else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
