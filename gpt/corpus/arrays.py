"""Sorted arrays of hashes, in memory or mapped from files."""

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
    """Return the values v of a file with `low` <= v < `high`, which may be 2 ** 64.

    The file is sorted, of uint64 or of records of `dtype` that begin with one.
    """
    mapped = map_array(path, dtype)
    values = mapped[dtype.names[0]] if dtype.names else mapped
    first = int(np.searchsorted(values, np.uint64(low)))
    last = len(values) if high == 2**64 else int(np.searchsorted(values, np.uint64(high)))
    return np.fromfile(path, dtype, last - first, offset=first * dtype.itemsize)
