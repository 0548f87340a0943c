"""A run's curves and samples in TensorBoard or W&B, beside MLflow: what `launch.trackers` names, by Accelerate's trackers.

A thread of its own talks to them, so that training waits for none. One that fails costs a warning, and is told nothing more.
"""

import importlib.util
import logging
import threading
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeAlias

from gpt.errors import UserError
from gpt.params.launch import Launch
from gpt.secrets.hiding import redact_values

_SECONDS = 60  # to begin with, and to deliver what is left at the end

Values = dict[str, float | str]
AccelerateTracker: TypeAlias = Any
"One of accelerate.tracking, whose types leave out the run that each of them holds."

logger = logging.getLogger(__name__)


def check_trackers(launch: Launch) -> None:
    """Raise `UserError` if a package of `launch.trackers` is not installed."""
    for name in launch.trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"params.yaml: launch.trackers = {list(launch.trackers)}: {name} is not installed;"
                f" pip install 'gpt-pretrain[{name}]', or take it out"
            )


class Curves:
    """The trackers `names` of the run `run` of `project`, which goes on after `first_step` steps; files lie below `folder`.

    Steps that an earlier start had told beyond `first_step` are told again: TensorBoard shows the new ones, W&B keeps the old ones.
    """

    def __init__(
        self, names: tuple[str, ...], folder: Path, *, project: str, run: str, first_step: int, config: dict[str, Any]
    ) -> None:
        self._names, self._folder, self._project, self._run = names, folder, project, run
        self._first_step, self._config = first_step, redact_values(config)
        self._queue: SimpleQueue[tuple[int, Values] | None] = SimpleQueue()
        self._exit_code = 0
        self._thread = threading.Thread(target=self._work, name="curves", daemon=True)

    def __enter__(self) -> Self:
        if self._names:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._exit_code = 0 if kind is None else 1
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(2 * _SECONDS)
            if self._thread.is_alive():
                logger.warning(
                    "launch.trackers: %s did not take all that run %s has told", ", ".join(self._names), self._run
                )

    def log(self, step: int, values: dict[str, float] | dict[str, str]) -> None:
        """Tell metrics or texts after an optimizer step; returns at once."""
        if self._names:
            self._queue.put((step, redact_values(dict(values))))

    def _work(self) -> None:
        open_ones = {name: tracker for name in self._names if (tracker := self._open(name)) is not None}
        while (event := self._queue.get()) is not None:
            step, values = event
            for name, tracker in list(open_ones.items()):
                try:
                    tracker.log(dict(values), step=step)
                except Exception as error:  # in any way, and none may stop training
                    self._warn(name, error)
                    del open_ones[name]
        for name, tracker in open_ones.items():
            try:
                if name == "wandb":
                    tracker.tracker.finish(exit_code=self._exit_code)  # Accelerate would call a stopped run finished
                else:
                    tracker.finish()
            except Exception as error:
                self._warn(name, error)

    def _open(self, name: str) -> AccelerateTracker | None:
        """Return a tracker that has begun, or went on; None with a warning if it cannot."""
        try:
            tracker = self._tensorboard() if name == "tensorboard" else self._wandb()
            tracker.start()
            if name == "wandb":
                tracker.store_init_configuration(self._config)
                if not tracker.tracker.offline:
                    print(f"wandb: {tracker.tracker.url}", flush=True)
            return tracker
        except Exception as error:
            self._warn(name, error)
            return None

    def _tensorboard(self) -> AccelerateTracker:
        from accelerate.tracking import TensorBoardTracker

        # What a killed process had told beyond its last checkpoint is hidden.
        return TensorBoardTracker(self._run, self._folder / "tensorboard", purge_step=self._first_step + 1)

    def _wandb(self) -> AccelerateTracker:
        import wandb
        from accelerate.tracking import WandBTracker

        self._folder.mkdir(parents=True, exist_ok=True)
        # No console, no repository: both may show what redaction has not seen.
        settings = wandb.Settings(
            console="off", disable_git=True, silent=True, init_timeout=_SECONDS, finish_timeout=_SECONDS
        )
        return WandBTracker(
            self._project, dir=str(self._folder), id=self._run, name=self._run, resume="allow", settings=settings
        )

    def _warn(self, name: str, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning(
            "launch.trackers: %s: %s; training goes on without it, and MLflow has everything", name, reason[:300]
        )
