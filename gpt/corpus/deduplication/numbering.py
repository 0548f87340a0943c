"""One number for each document of all shards: by its class (its split, then its source), then its shard, then its place there.

So the lowest of some documents is one of those that stay before the others, and a pair of documents is one uint64.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt.errors import UserError
from gpt.tasks.reports import read_reports

TRAIN = 2
"The split with the highest number: test and validation, which judge a model, stand before it."
_SOURCE_BITS = 16
_MOST_DOCUMENTS = 2**32


class Block(NamedTuple):
    """Documents of one class in one shard, whose numbers follow one another."""

    start: int
    "The number of the first one."
    shard: int
    local: int
    "The place of the first one among the shard's documents, ordered by class."


def class_of(split: int, source: int) -> int:
    """Return the class of a document from the numbers of its split (test, validation, train) and of its source."""
    return split << _SOURCE_BITS | source


class Numbering:
    """The numbers of documents, from the counts of classes by shard that `Sign` has written to `folder`.

    Raises `UserError` for more documents than there are numbers.
    """

    def __init__(self, folder: Path) -> None:
        reports = read_reports(folder)
        self.shards = len(reports)
        rows = sorted(
            (int(name), shard, count) for shard, report in enumerate(reports) for name, count in report.items()
        )
        classes, shards, counts = np.array(rows, np.int64).reshape(-1, 3).T
        self._starts = np.cumsum(counts) - counts
        self._classes, self._shards = classes, shards
        self._locals = np.zeros_like(counts)
        self._rows: list[np.ndarray] = []
        for shard in range(self.shards):
            row = np.flatnonzero(shards == shard)
            self._locals[row] = np.cumsum(counts[row]) - counts[row]
            self._rows.append(row)
        self.documents = int(counts.sum())
        if self.documents > _MOST_DOCUMENTS:
            raise UserError(
                f"data/raw: holds {self.documents:,} documents, and prepare compares at most {_MOST_DOCUMENTS:,} with each other;"
                " prepare them in parts"
            )
        self._split_ends = np.cumsum(
            [counts[classes >> _SOURCE_BITS == split].sum() for split in range(TRAIN + 1)], dtype=np.int64
        )
        self.first_of_train = int(self._split_ends[TRAIN - 1])

    def number(self, shard: int, places: np.ndarray) -> np.ndarray:
        """Return the numbers of documents at places of a shard's order by class, as uint64."""
        rows = self._rows[shard]
        row = rows[np.searchsorted(self._locals[rows], places, "right") - 1]
        return (self._starts[row] + places - self._locals[row]).astype(np.uint64)

    def blocks(self, numbers: np.ndarray) -> Iterator[tuple[Block, np.ndarray]]:
        """Yield the blocks that sorted numbers are in, each with the places of its documents in the shard's order."""
        rows = self._row(numbers)
        for row in np.unique(rows):
            first, last = np.searchsorted(rows, row, "left"), np.searchsorted(rows, row, "right")
            block = Block(*(int(of[row]) for of in (self._starts, self._shards, self._locals)))
            yield block, numbers[first:last].astype(np.int64) - block.start + block.local

    def classes(self, numbers: np.ndarray) -> np.ndarray:
        """Return the classes of documents."""
        return self._classes[self._row(numbers)]

    def splits(self, numbers: np.ndarray) -> np.ndarray:
        """Return how many of the documents are in each split: (3,)."""
        return np.bincount(np.searchsorted(self._split_ends, numbers.astype(np.int64), "right"), minlength=TRAIN + 1)

    def _row(self, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, numbers.astype(np.int64), "right") - 1
