"""Signals that ask training to stop: noted at once, obeyed between two steps."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C reaches a worker from the terminal and again from its launcher: what comes so close together is one wish.
_ONE_WISH_SECONDS = 2.0


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Turn SIGTERM and SIGINT into entries of a list that the loop looks at between steps; a later one ends at once."""
    received: list[int] = []
    first = 0.0

    def note(signum: int, _frame: FrameType | None) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(signum)
        elif time.monotonic() - first > _ONE_WISH_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
