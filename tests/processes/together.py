"""Processes that share work, as threads of one process: quick to start, and what they bring together is really exchanged."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import numpy as np

from gpt.processes.agreement import Share

T = TypeVar("T")
_TIMEOUT_SECONDS = 60


def alone(rank: int, ranks: int) -> Share:
    """Return the share of a process whose others never come: what it adds up is its own part."""
    share = Share()
    share.part = (rank, ranks)
    return share


def together(ranks: int, work: Callable[[Share], T]) -> list[T]:
    """Return what each of so many threads gets from `work`, by rank."""
    barrier = Barrier(ranks, timeout=_TIMEOUT_SECONDS)
    places: list[Any] = [None] * ranks

    class ThreadShare(Share):
        def gather(self, value: Any) -> list[Any]:
            places[self.part[0]] = value
            barrier.wait()
            found = list(places)
            barrier.wait()  # before the next exchange
            return found

        def add_up(self, values: np.ndarray) -> np.ndarray:
            return np.sum(self.gather(values), axis=0, dtype=values.dtype)

    def one(rank: int) -> T:
        share = ThreadShare()
        share.part = (rank, ranks)
        try:
            return work(share)
        except BaseException:
            barrier.abort()  # the others would wait
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(one, range(ranks)))
