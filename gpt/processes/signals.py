"""SIGTERM and SIGINT ask to stop: at once while there is nothing to save, in training later after the step that is being taken."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gpt.errors import Interrupted

# One stop may reach a worker twice, from its launcher and from the terminal or whoever stops the whole process tree.
_SAME_STOP_SECONDS = 2.0


class Stop:
    """A request to stop: `signum` is the signal that came first, 0 if none has come. A later one ends the process at once.

    `told` is what a person is told of a stop while there is nothing to save: when it came, and what to do.
    """

    def __init__(self, told: str = "before the first step; run it again to go on") -> None:
        self.signum = 0
        self._told = told
        self._since = 0.0
        self._is_deferred = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle both signals in this block. Until `defer` they raise `Interrupted`: there is nothing to save yet."""
        before = {signum: signal.signal(signum, self._note) for signum in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def defer(self) -> None:
        """From now on only note the signal, for the caller to look at `signum`: the training loop does so between steps."""
        self._is_deferred = True

    def with_nothing_to_save(self, signum: int) -> Interrupted:
        """Return what ends a run that has nothing to save."""
        return Interrupted(signum, f"stopped by {signal.Signals(signum).name} {self._told}")

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if not self.signum:
            self.signum, self._since = signum, time.monotonic()
            if not self._is_deferred:
                raise self.with_nothing_to_save(signum)
        elif time.monotonic() - self._since > _SAME_STOP_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
