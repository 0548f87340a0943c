"""Sorted arrays of hashes, in memory or mapped from files."""

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


def slice_between(values: np.ndarray, low: int, high: int) -> slice:
    """Return where sorted uint64 values of at least `low` and less than `high` stand; `high` may be 2 ** 64."""
    first = int(np.searchsorted(values, np.uint64(low)))
    return slice(first, len(values) if high == 2**64 else int(np.searchsorted(values, np.uint64(high))))
