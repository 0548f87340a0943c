"""Signals that ask training to stop: noted at once, obeyed between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Turn SIGTERM and SIGINT into entries of a list that the loop looks at between steps; a second one ends at once."""
    received: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        if received:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        received.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
