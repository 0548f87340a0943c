"""SIGTERM and SIGINT ask training to stop: at once before the first step, later after the step that is being taken."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gpt.errors import Interrupted

# One stop may reach a worker twice, from its launcher and from the terminal or whoever stops the whole process tree.
_SAME_STOP_SECONDS = 2.0


class Stop:
    """A request to stop: `signum` is the signal that came first, 0 if none has come. A later one ends the process at once."""

    def __init__(self) -> None:
        self.signum = 0
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
        """From now on only note the signal: the training loop looks at `signum` between steps."""
        self._is_deferred = True

    def before_the_first_step(self, signum: int) -> Interrupted:
        """Return what ends a run that has nothing to save."""
        name = signal.Signals(signum).name
        return Interrupted(signum, f"stopped by {name} before the first step; run it again to go on")

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if not self.signum:
            self.signum, self._since = signum, time.monotonic()
            if not self._is_deferred:
                raise self.before_the_first_step(signum)
        elif time.monotonic() - self._since > _SAME_STOP_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
