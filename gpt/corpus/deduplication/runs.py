"""Sorting more than memory holds: runs are sorted in memory, and merged from files a range at a time (Knuth, volume 3, 5.4)."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpt.corpus.arrays import cut_ranges, read_places, sort_unique

PAIR = np.dtype("<u8")
"Two numbers of documents: first << 32 | second."
_BYTES_PER_VALUE = 256  # of memory, with all that sorting and connecting a run of pairs take
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)

Merge = Callable[[np.ndarray], np.ndarray]


def values_in(memory_gb: float) -> int:
    """Return how many values a task of so many GiB may work on at once."""
    return max(1, int(memory_gb * 2**30) // _BYTES_PER_VALUE)


def pack(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return pairs of numbers below 2 ** 32 as PAIRs."""
    return first.astype(PAIR) << _HALF | second.astype(PAIR)


def unpack(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both numbers of PAIRs, each as uint64."""
    return pairs >> _HALF, pairs & _LOW


class SortedRuns:
    """Values that are added in any order and read sorted; at most `limit` of them are in memory at once.

    `merge` sorts values, and may make fewer of those that belong together: by default each value is kept once. `shrink` is
    done to a run besides. Runs lie in `folder`, which is this object's own.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        dtype: np.dtype = PAIR,
        merge: Merge = sort_unique,
        shrink: Merge | None = None,
    ) -> None:
        self._folder, self._limit, self._dtype = folder, limit, dtype
        self._merge, self._shrink = merge, shrink
        self._waiting: list[np.ndarray] = []
        self._count = 0
        self.runs: list[Path] = []

    def add(self, values: np.ndarray) -> None:
        """Take values of the dtype, in any order."""
        for start in range(0, len(values), self._limit):
            piece = values[start : start + self._limit]
            if self._count + len(piece) > self._limit:
                self._write_run()
            self._waiting.append(piece)
            self._count += len(piece)

    def read(self) -> Iterator[np.ndarray]:
        """Yield all values, sorted over all pieces, as often as it is asked for. Nothing may be added then."""
        if not self.runs:
            self._waiting = [self._run()]
            yield self._waiting[0]
            return
        self._write_run()
        for firsts, lasts in cut_ranges(self.runs, self._dtype, self._limit):
            places = zip(self.runs, firsts.tolist(), lasts.tolist(), strict=True)
            yield self._merge(np.concatenate([read_places(path, self._dtype, *ends) for path, *ends in places]))

    def remove(self) -> None:
        """Give memory and disk back."""
        self._waiting, self.runs, self._count = [], [], 0
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write_run(self) -> None:
        if self._waiting:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{len(self.runs):05d}"
            self._run().tofile(path)
            self.runs.append(path)
            self._waiting, self._count = [], 0

    def _run(self) -> np.ndarray:
        values = self._merge(np.concatenate([np.empty(0, self._dtype), *self._waiting]))
        return self._shrink(values) if self._shrink else values
