"""Sorted arrays of hashes, in memory or in files that are larger than memory."""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np


def first_of_equal(values: np.ndarray) -> np.ndarray:
    """Return which of sorted values are unlike the one before: (len(values),) bool."""
    first = np.ones(len(values), np.bool_)
    first[1:] = values[1:] != values[:-1]
    return first


def sort_unique(values: np.ndarray) -> np.ndarray:
    """Return the values sorted, each once: `np.unique` hashes them, which takes 20 times the time, and more memory."""
    values = np.sort(values)
    return values[first_of_equal(values)]


def map_array(path: Path, dtype: np.dtype) -> np.ndarray:
    """Return a file as an array that is read where it is looked at; it may be empty."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def read_between(path: Path, dtype: np.dtype, low: int, high: int) -> np.ndarray:
    """Return the values v of a file with `low` <= v < `high`, which may be 2 ** 64. Little more than these is read.

    The file is sorted, of uint64 or of records of `dtype` that begin with one.
    """
    first, last = find_places(path, dtype, (low, high))
    return read_places(path, dtype, first, last)


def read_places(path: Path, dtype: np.dtype, first: int, last: int) -> np.ndarray:
    """Return the values at places [first, last) of a file."""
    return np.fromfile(path, dtype, last - first, offset=first * dtype.itemsize)


def find_places(
    path: Path, dtype: np.dtype, bounds: Sequence[int], first: int = 0, last: int | None = None
) -> list[int]:
    """Return for each bound where a sorted file's values, among places [first, last), are no longer below it.

    It looks at some values one by one: `np.searchsorted` copies a field of mapped records before it begins, the whole file.
    """
    with path.open("rb", buffering=0) as file:
        places = range(os.fstat(file.fileno()).st_size // dtype.itemsize)

        def value(place: int) -> int:
            return int.from_bytes(os.pread(file.fileno(), 8, place * dtype.itemsize), "little")

        return [bisect_left(places, bound, first, len(places) if last is None else last, key=value) for bound in bounds]


def cut_ranges(paths: Sequence[Path], dtype: np.dtype, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut the range of all values into pieces, one after the other: yield for each where it begins and ends in each sorted file.

    All files together have at most `limit` values in a piece, unless these are all the same.
    """
    lasts = np.array([path.stat().st_size // dtype.itemsize for path in paths], np.int64)
    yield from _cut(paths, dtype, limit, np.zeros_like(lasts), lasts)


def _cut(
    paths: Sequence[Path], dtype: np.dtype, limit: int, firsts: np.ndarray, lasts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    sizes = lasts - firsts
    if sizes.sum() > limit:
        longest = int(sizes.argmax())
        place = int(firsts[longest] + lasts[longest]) // 2
        middle = int(_first_field(read_places(paths[longest], dtype, place, place + 1))[0])
        for bound in (middle, middle + 1):  # where none is below, those that are equal to it are a piece
            ends = zip(paths, firsts.tolist(), lasts.tolist(), strict=True)
            cuts = np.array([find_places(path, dtype, (bound,), *end)[0] for path, *end in ends], np.int64)
            if (cuts > firsts).any() and (cuts < lasts).any():
                yield from _cut(paths, dtype, limit, firsts, cuts)
                yield from _cut(paths, dtype, limit, cuts, lasts)
                return
    yield firsts, lasts


def _first_field(values: np.ndarray) -> np.ndarray:
    return values[values.dtype.names[0]] if values.dtype.names else values
