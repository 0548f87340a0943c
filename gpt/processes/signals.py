"""Signals that ask training to stop: while it trains noted and obeyed between two steps, before that obeyed at once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gpt.errors import Interrupted

# Ctrl-C reaches a worker from the terminal and again from its launcher: what comes so close together is one wish.
_ONE_WISH_SECONDS = 2.0


class Stop:
    """Whether SIGTERM or SIGINT has come: `signum` is the first one, 0 if none has. A later one ends the process at once."""

    def __init__(self) -> None:
        self.signum = 0
        self._since = 0.0
        self._is_deferred = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Let the signals raise `Interrupted`: nothing has changed yet that is not on disk."""
        before = {signum: signal.signal(signum, self._note) for signum in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def defer(self) -> None:
        """From now on only note them, for the loop that looks at `signum` between steps."""
        self._is_deferred = True

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if not self.signum:
            self.signum, self._since = signum, time.monotonic()
            if not self._is_deferred:
                name = signal.Signals(signum).name
                raise Interrupted(signum, f"stopped by {name} before the first step; run it again to go on")
        elif time.monotonic() - self._since > _ONE_WISH_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
