"""The index of what judges a model, by word n-grams: whose each is, and what a text shares with it.

It is a sorted array of n-gram hashes in a file, which all workers map, and beside it a table of whose each is.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from datatrove.data import Document

from gpt.corpus.arrays import find_places, first_of_equal, map_array, read_between, read_places, sort_unique
from gpt.corpus.words import ngram_hashes, split_words
from gpt.tasks.steps import WritingStep

HASH = np.dtype("<u8")
_ITEM = np.dtype("<u4")
_PLACE = np.dtype("<u8")
_HOLDER = np.dtype([("owner", "<u4"), ("item", "<u4")])
"Whose an n-gram is: the number of an owner, and of its item."
_HELD = np.dtype([("group", "<u4"), *_HOLDER.descr])
# Few items at a time are slow to hash, many take memory.
_ITEMS_AT_ONCE = 256
_CHARACTERS_AT_ONCE = 1 << 20
_HASHES_AT_ONCE = 1 << 20  # of the index, in memory
_HOLDERS_AT_ONCE = 1 << 20  # looked up together
_LEAST_FILTER_BITS = 16


class IndexTexts(WritingStep):
    """Task t: write owner t's n-grams: sorted `.grams`, the number of the item that holds each, `.items`, and each once, `.hashes`.

    `owners` are (name, JSONL file), benchmarks' and shards' held-out documents, with an item's texts in `texts`, or one in `text`.
    """

    name = "n-grams"

    def __init__(self, owners: list[tuple[str, Path]], folder: Path, ngram: int) -> None:
        super().__init__()
        self._owners, self._folder, self._ngram = owners, folder, ngram

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        _, path = self._owners[rank]
        hashes, numbers, unprotected, items = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)], [], 0
        for batch in _batches(path):
            found, of = self._grams(batch)
            held = np.bincount(of, minlength=len(batch))
            unprotected += [item["id"] for item, count in zip(batch, held, strict=True) if not count]
            hashes.append(found)
            numbers.append(of + np.uint32(items))
            items += len(batch)
        grams, owned = np.concatenate(hashes), np.concatenate(numbers)
        del hashes, numbers
        order = np.argsort(grams, kind="stable")  # items come in order: they stay so among equal hashes
        grams, owned = grams[order], owned[order]
        once = first_of_equal(grams) | first_of_equal(owned)
        grams, owned = grams[once], owned[once]
        grams.tofile(self.new_file(self._folder / f"{rank:05d}.grams"))
        owned.tofile(self.new_file(self._folder / f"{rank:05d}.items"))
        grams[first_of_equal(grams)].tofile(self.new_file(self._folder / f"{rank:05d}.hashes"))
        self.write_report(self._folder, rank, {"items": items, "unprotected": unprotected})
        yield from ()

    def _grams(self, items: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes of n-grams and whose they are, items counting from 0: all at once, as few words are soon hashed."""
        words: list[str] = []
        numbers, lengths, known = [], [], dict[str, list[str]]()
        for number, item in enumerate(items):
            for text in item["texts"]:  # questions share a story
                found = known.get(text)
                if found is None:
                    found = known[text] = split_words(text)
                words += found
                numbers.append(number)
                lengths.append(len(found))
        hashes = ngram_hashes(words, self._ngram)
        text_of = np.repeat(np.arange(len(lengths)), lengths)
        last = self._ngram - 1
        whole = text_of[: len(hashes)] == text_of[last : last + len(hashes)]  # not of two texts
        places = text_of[: len(hashes)][whole]
        return hashes[whole], np.array(numbers, np.uint32)[places] if len(places) else np.empty(0, np.uint32)


class MergeIndex(WritingStep):
    """The one task that makes the index of all owners: `index`, each n-gram once, sorted, `filter`, and `holders`.

    The filter has a bit for every value of a hash's first bits, sixteen times as many as there are n-grams: few texts
    pass it that are not in the index, and most never look there. `holders` says whose the n-grams are, in their order, and
    `places` where those of each begin. All are written a range of hashes at a time.
    """

    name = "index"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        paths = sorted(self._folder.glob("*.hashes"))
        total = sum(path.stat().st_size // HASH.itemsize for path in paths)
        part_bits = (total // _HASHES_AT_ONCE).bit_length()
        filter_bits = max(_LEAST_FILTER_BITS, (16 * total).bit_length())
        count = 0
        with ExitStack() as stack:
            index, filter_, holders, places = (
                stack.enter_context(self.new_file(self._folder / name).open("wb"))
                for name in ("index", "filter", "holders", "places")
            )
            for part in range(1 << part_bits):
                low, high = part << (64 - part_bits), (part + 1) << (64 - part_bits)
                pieces = [read_between(path, HASH, low, high) for path in paths]
                merged = sort_unique(np.concatenate([np.empty(0, HASH), *pieces]))
                merged.tofile(index)
                bits = np.zeros(1 << (filter_bits - part_bits), np.bool_)
                bits[(merged - np.uint64(low)) >> np.uint64(64 - filter_bits)] = True
                np.packbits(bits).tofile(filter_)
                grams, held = self._holders(low, high)
                held.tofile(holders)
                (np.searchsorted(grams, merged) + count).astype(_PLACE).tofile(places)
                count += len(held)
            np.array([count], _PLACE).tofile(places)
        yield from ()

    def _holders(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the n-grams of all owners in a range of hashes, sorted, and the HOLDER of each, by owner and item."""
        grams, holders = [np.empty(0, HASH)], [np.empty(0, _HOLDER)]
        for path in sorted(self._folder.glob("*.grams")):
            first, last = find_places(path, HASH, (low, high))
            held = np.empty(last - first, _HOLDER)
            held["owner"], held["item"] = int(path.stem), read_places(path.with_suffix(".items"), _ITEM, first, last)
            grams.append(read_places(path, HASH, first, last))
            holders.append(held)
        found = np.concatenate(grams)
        order = np.argsort(found, kind="stable")
        return found[order], np.concatenate(holders)[order]


@dataclass(frozen=True)
class Match:
    """Words [first, last) of a text, and the hashes of their n-grams that are in the index."""

    first: int
    last: int
    hashes: np.ndarray


class Matcher:
    """Finds what a text shares with the indexed ones."""

    def __init__(self, folder: Path, ngram: int) -> None:
        self._index = map_array(folder / "index", HASH)
        self._filter = np.memmap(folder / "filter", np.uint8, "r")
        self._shift = np.uint64(64 - (len(self._filter).bit_length() + 2))
        self._ngram = ngram

    def find(self, words: list[str]) -> list[Match]:
        """Return the matches in a text's words, in order; overlapping ones are one."""
        hashes = ngram_hashes(words, self._ngram)
        places = hashes >> self._shift
        bits = self._filter[places >> np.uint64(3)] << (places & np.uint64(7)).astype(np.uint8)
        found = np.flatnonzero(bits & 128)
        if not len(found) or not len(self._index):
            return []
        places = np.searchsorted(self._index, hashes[found])
        places[places == len(self._index)] = 0
        found = found[self._index[places] == hashes[found]]
        matches: list[Match] = []
        for group in np.split(found, np.flatnonzero(np.diff(found) > self._ngram) + 1):
            if len(group):
                matches.append(Match(int(group[0]), int(group[-1]) + self._ngram, hashes[group]))
        return matches


def find_owners(index: Path, groups: list[np.ndarray]) -> list[dict[int, np.ndarray]]:
    """Return for each group of hashes, by owner's number, the numbers of the items that hold one of them, sorted."""
    hashes = np.concatenate([np.empty(0, HASH), *groups])
    group_of = np.repeat(np.arange(len(groups)), np.array([len(group) for group in groups], np.int64))
    known, places = map_array(index / "index", HASH), map_array(index / "places", _PLACE)
    holders = map_array(index / "holders", _HOLDER)
    found = np.searchsorted(known, hashes)
    is_known = found < len(known)
    is_known[is_known] = known[found[is_known]] == hashes[is_known]
    found, group_of = found[is_known], group_of[is_known]
    starts = places[found].astype(np.int64)
    counts = places[found + 1].astype(np.int64) - starts
    table = np.empty(0, _HELD)
    for piece in _pieces(counts):  # what many items share is looked up a part at a time
        size = counts[piece]
        rows = np.repeat(starts[piece] - np.cumsum(size) + size, size) + np.arange(size.sum())
        held = np.empty(len(rows), _HELD)
        held["group"] = np.repeat(group_of[piece], size)
        for name in ("owner", "item"):
            held[name] = holders[name][rows]
        table = _sort_held(np.concatenate([table, held]))
    result: list[dict[int, np.ndarray]] = [{} for _ in groups]
    ends = np.flatnonzero(first_of_equal(table["group"]) | first_of_equal(table["owner"]))
    for piece in np.split(table, ends)[1:]:
        result[int(piece["group"][0])][int(piece["owner"][0])] = piece["item"].copy()
    return result


def _pieces(counts: np.ndarray) -> Iterator[slice]:
    """Yield slices of n-grams with about so many holders as are looked up together."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _HOLDERS_AT_ONCE, "right")))
        yield slice(start, stop)
        start = stop


def _sort_held(table: np.ndarray) -> np.ndarray:
    """Return the records sorted, each once."""
    table = table[np.lexsort((table["item"], table["owner"], table["group"]))]
    return table[np.logical_or.reduce([first_of_equal(table[name]) for name in ("group", "owner", "item")])]


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield items, as many at a time as are soon hashed together and take little memory."""
    batch, size = [], 0
    for item in read_items(path):
        batch.append(item)
        size += sum(map(len, item["texts"]))
        if len(batch) == _ITEMS_AT_ONCE or size > _CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_items(path: Path) -> Iterator[dict[str, Any]]:
    """Yield id and texts of a benchmark's items or of held-out documents."""
    with path.open("rb") as file:
        for line in file:
            item = orjson.loads(line)
            yield {"id": item["id"], "texts": item["texts"] if "texts" in item else [item["text"]]}
