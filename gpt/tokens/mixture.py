"""Which source each training sequence is of: shares of the tokens by phases, without a random number or a state.

A phase's sequences are dealt to its sources as evenly as they can be: a tree of two-way splits, each of which gives its left
side the rounded share of what has come to it. So the first n sequences of a phase hold n × share of a source, give or take two, for
every n, and how many of a source came before a sequence is arithmetic too.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpt.params.training import Phase

_RESOLUTION = 10**9  # of a share; products of two such numbers fit into 64 bits


def phases_of(mixture: Iterable[Phase], steps: int) -> tuple[Phase, ...]:
    """Return the phases of a run of so many steps: those that begin before its end.

    A run that went back past bad batches reads some beyond its last step; they are of its last phase.
    """
    return tuple(phase for phase in mixture if phase.from_step < steps)


def seen_by(mixture: Iterable[Phase], steps: int) -> list[dict[str, Any]]:
    """Return the mixture as JSON values that decide what a run of so many steps sees, and nothing else.

    A phase that begins later, a share of zero and the order of names are no part of it.
    """
    return [
        {"from_step": phase.from_step, "shares": {name: phase.shares[name] for name in sorted(_sources(phase))}}
        for phase in phases_of(mixture, steps)
    ]


class Place(NamedTuple):
    """For each sequence of a batch the number of its source, and the number that it has among that source's: (n,) int64."""

    sources: np.ndarray
    numbers: np.ndarray


class Mixture:
    """The sources of all training sequences, `batch_size` of them a step. Each source goes on where the phase before left it.

    Attribute: `names`, the sources in the order of their numbers.
    """

    def __init__(self, phases: Sequence[Phase], batch_size: int) -> None:
        assert phases and phases[0].from_step == 0, "as params.yaml is checked"
        self.names = tuple(sorted({name for phase in phases for name in _sources(phase)}))
        self._batch_size = batch_size
        self._firsts = [phase.from_step for phase in phases]
        self._dealers = [
            _Dealer({self.names.index(name): phase.shares[name] for name in _sources(phase)}) for phase in phases
        ]

    def place(self, step: int) -> Place:
        """Return the source of every sequence of global batch `step`."""
        phase = self._phase(step)
        indices = (step - self._firsts[phase]) * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        place = self._dealers[phase].deal(indices)
        return Place(place.sources, place.numbers + self._counts(self._firsts[phase])[place.sources])

    def counts(self, steps: int) -> dict[str, int]:
        """Return how many sequences of each source the first `steps` steps see."""
        return dict(zip(self.names, self._counts(steps).tolist(), strict=True))

    def _counts(self, steps: int) -> np.ndarray:
        counts = np.zeros(len(self.names), np.int64)
        ends = [*self._firsts[1:], steps]
        for first, end, dealer in zip(self._firsts, ends, self._dealers, strict=True):
            for source, count in dealer.counts(max(0, min(end, steps) - first) * self._batch_size).items():
                counts[source] += count
        return counts

    def _phase(self, step: int) -> int:
        return max(number for number, first in enumerate(self._firsts) if first <= step)


def _sources(phase: Phase) -> list[str]:
    return [name for name, share in phase.shares.items() if share]


@dataclass(frozen=True)
class _Node:
    """A source, or two nodes among which what comes to this one is split. Weights are integers: every machine rounds alike."""

    weight: int
    source: int = -1
    left: "_Node | None" = None
    right: "_Node | None" = None

    def before(self, numbers: np.ndarray) -> np.ndarray:
        """Return how many of the first so many sequences go to the left: their share, rounded."""
        assert self.left is not None
        whole, rest = np.divmod(numbers, self.weight)
        return whole * self.left.weight + (rest * self.left.weight + self.weight // 2) // self.weight


class _Dealer:
    """Deals sequences 0, 1, 2, … to sources by their shares.

    As in Huffman's tree the two smallest are joined first: then no inner node has more than two thirds of the one above it, and the
    roundings on the way down (at most a half each) add up to less than 2.
    """

    def __init__(self, shares: Mapping[int, float]) -> None:
        total = sum(shares.values())
        leaves = [_Node(max(1, round(share / total * _RESOLUTION)), source) for source, share in sorted(shares.items())]
        heap = [(node.weight, number, node) for number, node in enumerate(leaves)]
        heapq.heapify(heap)
        for number in range(len(leaves), 2 * len(leaves) - 1):
            (_, _, small), (_, _, large) = heapq.heappop(heap), heapq.heappop(heap)
            joined = _Node(small.weight + large.weight, left=small, right=large)
            heapq.heappush(heap, (joined.weight, number, joined))
        self._root = heap[0][2]

    def counts(self, sequences: int) -> dict[int, int]:
        """Return how many of the first so many sequences each source has."""
        counts: dict[int, int] = {}
        waiting = [(self._root, np.int64(sequences))]
        while waiting:
            node, number = waiting.pop()
            if node.left is None or node.right is None:
                counts[node.source] = int(number)
            else:
                left = node.before(np.array([number]))[0]
                waiting += [(node.left, left), (node.right, number - left)]
        return counts

    def deal(self, indices: np.ndarray) -> Place:
        """Return the source of each sequence, and how many of that source came before it."""
        sources, numbers = np.empty_like(indices), np.empty_like(indices)
        waiting = [(self._root, np.arange(len(indices)), indices)]
        while waiting:
            node, rows, own = waiting.pop()
            if node.left is None or node.right is None:
                sources[rows], numbers[rows] = node.source, own
                continue
            before = node.before(own)
            goes_left = node.before(own + 1) > before
            waiting += [
                (node.left, rows[goes_left], before[goes_left]),
                (node.right, rows[~goes_left], (own - before)[~goes_left]),
            ]
        return Place(sources, numbers)
