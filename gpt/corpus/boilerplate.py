"""Passages that many training documents share: licences, notices, what tools write. They are no leaks, and walls between matches.

"We ignored 13-grams that matched more than 10 training documents, as inspection showed the majority of these to contain common
cultural phrases, legal boilerplate, or similar content" (Brown et al. 2020, appendix C). Counted are the n-grams of what judges
the model alone, so memory grows with what training documents share with it and not with the corpus.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document

from gpt.corpus.arrays import first_of_equal, map_array, read_between, sort_unique
from gpt.corpus.index import HASH, Match, Matcher, read_items
from gpt.corpus.words import split_words
from gpt.tasks.steps import WritingStep

SHARED = np.dtype([("gram", "<u8"), ("documents", "<u4")])
"An n-gram's hash, and how many training documents it is in; files are sorted by hash."
COMMON = "common"
"File of those that are in more than `max_documents`."
_AT_ONCE = 1 << 20  # records, in memory
_GRAMS = (("grams", "<u8"), ("items", "<u4"))  # files of an index


class CountDocuments(WritingStep):
    """Task s: count in how many of shard s' documents each n-gram of the indexes is.

    Writes `<shard>.shared`, and `<shard>.met`, a byte a document: 1 if it has such an n-gram. All others need no second look.
    """

    name = "shared"

    def __init__(self, indexes: list[Path], ngram: int, folder: Path) -> None:
        super().__init__()
        self._indexes, self._ngram, self._folder = indexes, ngram, folder

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        matchers = [Matcher(index, self._ngram) for index in self._indexes]
        total, found, waiting = np.empty(0, SHARED), list[np.ndarray](), 0
        met = bytearray()
        for document in data or ():
            words = split_words(document.text)
            grams = np.concatenate(
                [np.empty(0, HASH), *(match.hashes for matcher in matchers for match in matcher.find(words))]
            )
            met.append(bool(len(grams)))
            if len(grams):
                found.append(_once(sort_unique(grams)))
                waiting += len(found[-1])
            if waiting > max(_AT_ONCE, len(total)):
                total, found, waiting = _add_up([total, *found]), [], 0
        _add_up([total, *found]).tofile(self.new_file(self._folder / f"{rank:05d}.shared"))
        self.new_file(self._folder / f"{rank:05d}.met").write_bytes(met)
        yield from ()


class ChooseCommon(WritingStep):
    """The one task that adds up what the shards counted, and writes the n-grams in more than `limit` documents and their hashes."""

    name = "common"

    def __init__(self, limit: int, folder: Path) -> None:
        super().__init__()
        self._limit, self._folder = limit, folder

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        paths = sorted(self._folder.glob("*.shared"))
        parts = 1 + sum(path.stat().st_size for path in paths) // (SHARED.itemsize * _AT_ONCE)
        places = (self.new_file(self._folder / name) for name in (COMMON, f"{COMMON}.hashes"))
        with next(places).open("wb") as common, next(places).open("wb") as hashes:
            for part in range(parts if self._limit else 0):  # a range of hashes at a time
                low, high = (part << 64) // parts, ((part + 1) << 64) // parts
                counted = _add_up([read_between(path, SHARED, low, high) for path in paths])
                counted = counted[counted["documents"] > self._limit]
                counted.tofile(common)
                counted["gram"].tofile(hashes)
        yield from ()


class ListUnprotected(WritingStep):
    """Task t: name the items of owner t of which the walls leave no n-gram, so that nothing is left to find them by."""

    name = "unprotected"

    def __init__(self, owners: list[tuple[str, Path]], index: Path, common: Path, ngram: int, folder: Path) -> None:
        super().__init__()
        self._owners, self._index, self._common, self._ngram = owners, index, common, ngram
        self._folder = folder

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        common = map_array(self._common / f"{COMMON}.hashes", HASH)
        numbers = set[int]()  # of items that have something common: the others need no look
        if len(common):
            grams, items = (map_array(self._index / f"{rank:05d}.{each}", np.dtype(kind)) for each, kind in _GRAMS)
            places = np.minimum(np.searchsorted(common, grams), len(common) - 1)
            numbers = set(items[common[places] == grams].tolist())
        walls = Matcher(self._common, self._ngram)
        path = self._owners[rank][1]
        unprotected = [
            item["id"]
            for number, item in enumerate(read_items(path) if numbers else ())
            if number in numbers and not any(self._is_left(split_words(text), walls) for text in item["texts"])
        ]
        self.write_report(self._folder, rank, unprotected)
        yield from ()

    def _is_left(self, words: list[str], walls: Matcher) -> bool:
        return any(between(walls.find(words), len(words), self._ngram))


def between(walls: list[Match], words: int, ngram: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of the words between walls, where there are enough for an n-gram."""
    first = 0
    for begins, ends in (*((wall.first, wall.last) for wall in walls), (words, words)):
        if begins - first >= ngram:
            yield first, begins
        first = max(first, ends)


def met_documents(folder: Path, shard: int) -> np.ndarray:
    """Return of every training document of a shard whether it has an n-gram of what judges the model: (documents,) bool."""
    return np.fromfile(folder / f"{shard:05d}.met", np.bool_)


def common_grams(folder: Path) -> np.ndarray:
    """Return the n-grams that are left alone, (n,) SHARED, sorted, read where they are looked at."""
    return map_array(folder / COMMON, SHARED)


def _once(grams: np.ndarray) -> np.ndarray:
    """Return n-grams of one document as SHARED."""
    records = np.empty(len(grams), SHARED)
    records["gram"], records["documents"] = grams, 1
    return records


def _add_up(pieces: list[np.ndarray]) -> np.ndarray:
    """Return SHARED records of all pieces, sorted, each n-gram once with the sum of its documents."""
    records = np.concatenate([np.empty(0, SHARED), *pieces])
    records = records[np.argsort(records["gram"], kind="stable")]
    firsts = np.flatnonzero(first_of_equal(records["gram"]))
    added = records[firsts]
    if len(firsts):
        added["documents"] = np.add.reduceat(records["documents"], firsts)
    return added
