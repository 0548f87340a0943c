"""Which documents pairs connect, also through others, in memory that does not grow with them.

What fits in memory is connected there. Runs that do not are brought together by stars (Kiveris et al. 2014, Connected Components
in MapReduce and Beyond): every pass ties neighbours of a document to the lowest one, until all of a component are tied to the
lowest of it. A pass sorts the pairs and reads them from end to end; there are about as many as log² of the longest chain.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gpt.corpus.arrays import first_of_equal, sort_unique
from gpt.corpus.deduplication.runs import SortedRuns, pack, unpack


def find_components(pairs: Iterable[np.ndarray], folder: Path, limit: int) -> SortedRuns:
    """Return for each document that pairs connect with a lower one a PAIR of it and the lowest of its component.

    `pairs` are pieces of PAIRs of two different documents, in any order. At most about `limit` of them are in memory at once.
    """
    number = 0
    stars = SortedRuns(folder / "stars-0", limit, shrink=connect)
    for piece in pairs:
        stars.add(_higher_first(*unpack(piece)))
    while True:
        both = SortedRuns(folder / "both", limit)
        count = 0
        for piece in stars.read():
            if not stars.runs:  # connected in memory
                return stars
            count += len(piece)
            both.add(piece)
            both.add(_swapped(piece))
        large, small = (
            SortedRuns(folder / f"{name}-{number + 1}", limit, shrink=connect) for name in ("large", "small")
        )
        if _tie_higher(both, large):
            for done in (both, large):
                done.remove()
            return stars
        for done in (stars, both):
            done.remove()
        _tie_lower(large, small)
        large.remove()
        stars, number = small, number + 1


def connect(pairs: np.ndarray) -> np.ndarray:
    """Return for each document of the PAIRs but the lowest of its component a PAIR of it and the lowest, sorted."""
    first, second = unpack(pairs)
    documents = sort_unique(np.concatenate([first, second]))
    size = len(documents)
    ends = np.searchsorted(documents, first), np.searchsorted(documents, second)
    graph = coo_array((np.ones(len(pairs), np.bool_), ends), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    lowest = np.full(count, size, np.int64)
    np.minimum.at(lowest, component, np.arange(size))
    lowest = lowest[component]
    others = lowest != np.arange(size)
    return pack(documents[others], documents[lowest[others]])


def _tie_higher(both: SortedRuns, output: SortedRuns) -> bool:
    """Tie the higher neighbours of every document to its lowest one, or to itself; `both` has every pair in both directions.

    Return whether all were tied so before: then no document has a lower neighbour and yet another one.
    """
    is_done, last, lowest = True, -1, -1
    for piece in both.read():
        document, neighbour = unpack(piece)
        is_first, lows = _lowest_neighbours(document, np.minimum(document, neighbour), last, lowest)
        is_done &= not (lows[~is_first] < document[~is_first]).any()
        higher = neighbour > document
        output.add(pack(neighbour[higher], lows[higher]))
        last, lowest = int(document[-1]), int(lows[-1])
    return is_done


def _tie_lower(pairs: SortedRuns, output: SortedRuns) -> None:
    """Tie every document and its lower neighbours to the lowest of these; in `pairs` the higher one stands first."""
    last, lowest = -1, -1
    for piece in pairs.read():
        document, neighbour = unpack(piece)
        is_first, lows = _lowest_neighbours(document, neighbour, last, lowest)
        output.add(piece[is_first])
        output.add(pack(neighbour[~is_first], lows[~is_first]))
        last, lowest = int(document[-1]), int(lows[-1])


def _lowest_neighbours(document: np.ndarray, low: np.ndarray, last: int, lowest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of sorted records are a document's first, and for each the value `low` of that first one.

    The piece before ended with the document `last` and its value `lowest`.
    """
    is_first = first_of_equal(document)
    is_first[:1] &= document[:1] != last
    values = np.concatenate([[max(lowest, 0)], low[is_first]]).astype(np.uint64)
    return is_first, values[np.cumsum(is_first)]


def _higher_first(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return pack(np.maximum(first, second), np.minimum(first, second))


def _swapped(pairs: np.ndarray) -> np.ndarray:
    first, second = unpack(pairs)
    return pack(second, first)
