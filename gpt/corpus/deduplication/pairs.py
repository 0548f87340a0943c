"""Documents that meet in a bucket: each is paired with the lowest one of its signature."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document

from gpt.corpus.arrays import cut_ranges, first_of_equal, read_places
from gpt.corpus.deduplication.numbering import Numbering
from gpt.corpus.deduplication.runs import PAIR, pack, values_in
from gpt.corpus.deduplication.signatures import signature_type
from gpt.tasks.steps import WritingStep


class FindPairs(WritingStep):
    """Task b: find the pairs of documents that meet in bucket b.

    A range of signatures at a time is in memory, of all shards; of one signature that more documents have than fit, a shard.
    """

    name = "pairs"

    def __init__(self, buckets: list[str], folder: Path, memory_gb: float) -> None:
        super().__init__()
        self._buckets, self._folder, self._limit = buckets, folder, values_in(memory_gb)

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        bucket, numbering = self._buckets[rank], Numbering(self._folder / "numbers")
        paths, dtype = sorted((self._folder / bucket).iterdir()), signature_type(bucket)

        def read(shard: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
            """Return the signatures of a shard's records, one column or two, and the documents' numbers."""
            records = read_places(paths[shard], dtype, first, last)
            columns = [records[name] for name in dtype.names or () if name != "document"]
            return np.stack(columns), numbering.number(shard, records["document"].astype(np.int64))

        with self.new_file(self._folder / f"{bucket}.pairs").open("wb") as file:
            for firsts, lasts in cut_ranges(paths, dtype, self._limit):
                places = [
                    (shard, first, last)
                    for shard, (first, last) in enumerate(zip(firsts.tolist(), lasts.tolist(), strict=True))
                    if last > first
                ]
                if (lasts - firsts).sum() <= self._limit:
                    pieces = [read(*place) for place in places]
                    if pieces:
                        signatures, documents = (np.concatenate(of, axis=-1) for of in zip(*pieces, strict=True))
                        pair_equal(signatures, documents).tofile(file)
                else:
                    heads = lowest_of_equal(*_lowest(read(*place) for place in places))
                    for place in places:
                        _pair_with(heads, *read(*place)).tofile(file)
        yield from ()


def pair_equal(signatures: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return PAIRs of every document with the lowest of its signature, if it is another. `signatures` is (columns, n)."""
    order = np.lexsort((documents, *signatures[::-1]))
    signatures, documents = signatures[:, order], documents[order]
    first = _first_of_columns(signatures)
    lowest = documents[np.maximum.accumulate(np.where(first, np.arange(len(documents)), 0))]
    return pack(documents[~first], lowest[~first])


def lowest_of_equal(signatures: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every signature once, (columns, m), and the lowest document that has it."""
    order = np.lexsort((documents, *signatures[::-1]))
    signatures, documents = signatures[:, order], documents[order]
    first = _first_of_columns(signatures)
    return signatures[:, first], documents[first]


def _lowest(pieces: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the signatures of all pieces with their lowest documents, those of a piece once."""
    heads = [lowest_of_equal(*piece) for piece in pieces]
    signatures, documents = (np.concatenate(of, axis=-1) for of in zip(*heads, strict=True))
    return signatures, documents


def _pair_with(heads: tuple[np.ndarray, np.ndarray], signatures: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return PAIRs of documents with the head of their signature, of a few that there are."""
    pairs = [np.empty(0, PAIR)]
    for signature, head in zip(heads[0].T, heads[1], strict=True):
        same = documents[(signatures == signature[:, None]).all(axis=0)]
        same = same[same != head]
        pairs.append(pack(same, np.full(len(same), head)))
    return np.concatenate(pairs)


def _first_of_columns(columns: np.ndarray) -> np.ndarray:
    return np.logical_or.reduce([first_of_equal(column) for column in columns])
