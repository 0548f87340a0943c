"""The state before wsd's decay, which stays when its run has ended: `checkpoints/stable/<fingerprint>/step_00000090/`.

Up to there a run does not know when it ends. So a longer run, or one that falls otherwise, begins with the state of another whose
settings, data, code and versions decide the same steps, and ends with the bytes that it would have had alone. What `--adopt` has
taken over is not of its settings: such a state is kept, and only `--adopt` goes on from it.
"""

import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gpt.locks import locked
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.adoption import read_adopted, write_adopted
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.fingerprint import Fingerprint, describe_differences, load_fingerprint

STABLE = "stable"
# Of waiting for another run that saves, or copies, a state of gigabytes. A save of this run waits for it, and the other processes
# for that one, before they take it for lost (launch.timeout_seconds, 600 as it comes).
_BEGIN_SECONDS, _SAVE_SECONDS = 600.0, 180.0

logger = logging.getLogger(__name__)


class _Kept(NamedTuple):
    """A state on the disk: of which run, and after which step."""

    run: Fingerprint
    folder: Path
    step: int


class StableStates:
    """The states below `root`, the folder of all checkpoints, of which the `keep` newest stay."""

    def __init__(self, root: Path, identity: Fingerprint, keep: int) -> None:
        self._root, self._identity, self._keep = root / STABLE, identity, keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a state of the run `identity`, and remove the oldest ones; raise `OSError` or `UserError` if it cannot be kept."""
        with self._locked(_SAVE_SECONDS):
            folder = self._root / self._identity.id
            folder.mkdir(exist_ok=True)
            checkpoints.clean_up(folder)
            self._identity.save(folder)
            adopted = read_adopted(self._root.parent / self._identity.id)
            # A kill may leave a state that only `--adopt` goes on from, but never one that should be and is not.
            write_adopted(folder, adopted or read_adopted(folder))
            checkpoints.save(folder, checkpoint)
            write_adopted(folder, adopted)
            self._prune(folder / checkpoints.name_of(checkpoint.step))

    def begin_from(self, folder: Path, most_steps: int, is_stopped: Callable[[], bool] = lambda: False) -> str | None:
        """Let the run `identity`, which has no checkpoint in `folder` yet, begin with the latest state that is its own too.

        `most_steps` are its first steps that neither its length nor its decay decides. Returns what was done, None if nothing.
        Raises `UserError` if another run holds the states for too long, or `is_stopped` said so while it does; `OSError`
        if the disk does not take the state.
        """
        if checkpoints.steps(folder) or not most_steps or not self._root.is_dir():
            return None
        with self._locked(_BEGIN_SECONDS, is_stopped):
            for kept in sorted(self._find(), key=lambda one: one.step, reverse=True):
                if kept.run.id == self._identity.id:
                    continue  # of this very run, which has ended: who trains it again wants it trained
                if kept.step > most_steps or not self._is_same_until(kept.run, kept.step) or read_adopted(kept.folder):
                    continue
                if (found := checkpoints.load_latest(kept.folder)) is None or found.step != kept.step:
                    continue
                # A run that went back has read later batches than its steps: they may be of a phase that begins after these.
                if not self._is_same_until(kept.run, found.step + found.state["skipped_batches"]):
                    continue
                parent = {"fingerprint": kept.run.id, "step": found.step, "run": found.state["run"]}
                # Another run of the tracking server. A checkpoint of its interval, so that going back comes back to it.
                own: dict[str, Any] = {"run": None, "parent": parent, "last_stable": found.step}
                write_adopted(folder, [])  # of an adoption that was killed before its checkpoint was there
                checkpoints.save(folder, replace(found, state=found.state | own, is_scheduled=True))
                return f"going on from step {found.step} of {kept.folder}: up to there it is this run; what differs comes later"
        return None

    def describe_nearest(self, folder: Path) -> str | None:
        """Return why the newest state of a shorter run of this name is none of this run's; None if there is none.

        None, too, for a run that has checkpoints of its own in `folder`.
        """
        length = self._identity.parts["settings"]["train.max_steps"]
        named = [
            one
            for one in self._find()
            if one.run.name == self._identity.name and one.run.parts["settings"].get("train.max_steps", length) < length
        ]
        if not named or checkpoints.steps(folder):
            return None
        newest = max(named, key=lambda one: _age(one.folder / checkpoints.name_of(one.step)))
        if read_adopted(newest.folder):
            return (
                f"{newest.folder}: the state of step {newest.step} before a decay is of a run that took over another's checkpoint,"
                f" so its settings do not give it; to go on from it all the same: gpt pretrain --adopt {newest.folder}"
            )
        differences = describe_differences(newest.run, self._identity, newest.step)
        if not differences:
            return None  # it is of later steps than this run could use, is damaged, or comes from a run that went back
        lines = [
            f"{newest.folder}: the state of step {newest.step} before a decay is none of this run, since this differs:"
        ]
        return "\n".join([*lines, *(f"  {line}" for line in differences)])

    def _is_same_until(self, other: Fingerprint, step: int) -> bool:
        return other.until(step) == self._identity.until(step)

    def _find(self) -> list[_Kept]:
        found = []
        for folder in sorted(self._root.glob("*")):
            run = load_fingerprint(folder)
            if run is not None and run.id == folder.name:
                found += [_Kept(run, folder, checkpoints.step_of(path)) for path in checkpoints.steps(folder)]
        return found

    def _prune(self, newest: Path) -> None:
        """Remove all but the newest states; `newest` is one whatever the clock said."""
        others = [path for path in self._root.glob("*/step_*") if path != newest]
        for path in sorted(others, key=_age, reverse=True)[self._keep - 1 :]:
            checkpoints.remove_one(path)
        for folder in self._root.glob("*"):
            if folder.is_dir() and not checkpoints.steps(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _locked(self, seconds: float, is_stopped: Callable[[], bool] = lambda: False) -> AbstractContextManager[None]:
        return locked(
            self._root / "lock",
            seconds,
            lambda holder: f"{self._root}: held by {holder}; run this again after it",
            is_stopped,
        )


def _age(path: Path) -> tuple[int, str]:
    """Return what sorts states by the time when they were written; a damaged one is the oldest."""
    try:
        return (path / checkpoints.MANIFEST).stat().st_mtime_ns, path.name
    except OSError:
        return 0, path.name
