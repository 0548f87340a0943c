"""Writes checkpoints in a thread, so that training waits only until what is to be saved is copied."""

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from gpt.errors import UserError
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.stable import StableStates

logger = logging.getLogger(__name__)


class Saver:
    """Saves one checkpoint at a time below `folder`, in a thread, and removes old ones.

    A save that fails, because the disk is full for instance, is a warning: older checkpoints stay, training goes on and the next
    save tries again. Tensors that are not finite are not saved, with a warning too. Leaving the context waits for the thread.
    """

    def __init__(self, folder: Path, *, keep_last: int, keep_every: int, stable: StableStates | None = None) -> None:
        self._folder, self._keep_last, self._keep_every, self._stable = folder, keep_last, keep_every, stable
        self._thread: threading.Thread | None = None
        self._is_saved = True
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.wait()

    def save(self, checkpoint: Checkpoint, *, is_stable: bool = False) -> None:
        """Begin to save `checkpoint`, whose tensors may not change any more; first waits for the save before it.

        If it `is_stable`, it is then kept as `keep_stable` does.
        """
        self._begin(checkpoint, [self._write, self._write_stable] if is_stable else [self._write])

    def keep_stable(self, checkpoint: Checkpoint) -> None:
        """Begin to keep the state before the decay, in the same way; whether it is kept decides nothing of this run."""
        self._begin(checkpoint, [self._write_stable])

    def _begin(self, checkpoint: Checkpoint, writes: Sequence[Callable[[Checkpoint], None]]) -> None:
        self.wait()
        checkpoint = replace(checkpoint, state=copy.deepcopy(checkpoint.state))

        def write_all() -> None:
            for write in writes:
                write(checkpoint)

        # No daemon: an interpreter that ends lets it finish.
        self._thread = threading.Thread(target=write_all, name="checkpoint")
        self._thread.start()

    def wait(self) -> bool:
        """Wait until the last checkpoint is written; return whether it was, True if there was none."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            raise self._error
        return self._is_saved

    def _write_stable(self, checkpoint: Checkpoint) -> None:
        assert self._stable is not None, "whoever keeps states says where"
        try:
            if name := _not_finite(checkpoint.weights | checkpoint.optimizer):
                logger.warning(
                    "the state of step %d before the decay is not kept: %s is not finite", checkpoint.step, name
                )
            else:
                self._stable.save(replace(checkpoint, is_scheduled=True))  # for a run that goes back to it
        except (OSError, UserError) as error:
            logger.warning(
                "the state of step %d before the decay is not kept (%s); training goes on, and a longer run will begin anew",
                *(checkpoint.step, error),
            )
        except BaseException as error:
            self._error = error

    def _write(self, checkpoint: Checkpoint) -> None:
        self._is_saved = False
        try:
            if name := _not_finite(checkpoint.weights | checkpoint.optimizer):
                logger.warning("checkpoint of step %d was not saved: %s is not finite", checkpoint.step, name)
                return
            checkpoints.save(self._folder, checkpoint)
            self._is_saved = True
        except OSError as error:
            logger.warning(
                "checkpoint of step %d was not saved (%s); make room in %s; training goes on, older checkpoints stay and the next"
                " save tries again",
                checkpoint.step,
                error,
                self._folder,
            )
        except BaseException as error:
            self._error = error
        if self._is_saved:
            try:
                checkpoints.prune(self._folder, checkpoint.step, self._keep_last, self._keep_every)
            except OSError as error:
                logger.warning("%s: an older checkpoint could not be removed (%s)", self._folder, error)


def _not_finite(tensors: dict[str, torch.Tensor]) -> str | None:
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
