"""Which of the documents that are the same, or nearly, stay.

What judges a model stays: a validation or test document goes only if another has the very same text, so documents that are added
later take none away, and of two versions of the data the held-out documents of the first are all in the second. (Any other rule
breaks that: if one of two held-out documents goes because of the other, then adding the other takes it away.) Near copies of one
another among them are counted. Of training documents that are connected, also through others, none stays if a held-out one is
among them, else one: of the source that params.yaml names first, then that with the lowest hash. So no training document
repeats one that judges, and which texts stay depends neither on shards nor on their order.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document

from gpt.corpus.arrays import first_of_equal, map_array, sort_unique
from gpt.corpus.deduplication.components import find_components
from gpt.corpus.deduplication.numbering import Numbering
from gpt.corpus.deduplication.runs import PAIR, SortedRuns, unpack, values_in
from gpt.corpus.deduplication.signatures import DIGEST, EXACT_BUCKET, POSITION, bucket_names
from gpt.params.corpus import Deduplicate
from gpt.tasks.reports import write_report
from gpt.tasks.steps import WritingStep

EXACT, NEAR = 1, 2
_CANDIDATE = np.dtype([("lowest", "<u8"), ("digest", "<u8"), ("document", "<u8")])
"A document that may stay, and the lowest of its component."
_NOTE = np.dtype([("place", "<u4"), ("value", "<u4")])
"What was found out about a document, by its place in the shard's order by class; later notes replace earlier ones."


class ChooseRemoved(WritingStep):
    """The one task that decides which documents go.

    `removed/<shard>` has a byte a document: 0, EXACT or NEAR; `copies/<shard>` the number of each document among those of the
    same text, since a source may keep its copies. `near_copies.json` counts the held-out documents that stay beside a near copy
    of theirs.
    """

    name = "clusters"

    def __init__(self, settings: Deduplicate, folder: Path, memory_gb: float) -> None:
        super().__init__()
        self._settings, self._folder, self._limit = settings, folder, values_in(memory_gb)
        self._work = folder / "clusters"

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        shutil.rmtree(self._work, ignore_errors=True)  # of a run that was killed
        numbering = Numbering(self._folder / "numbers")
        settings, beside = self._settings, np.zeros(3, np.int64)
        if settings.minhash:
            beside += self._note_near(numbering)
        copies = SortedRuns(self._work / "copies", self._limit)
        for pairs in self._read_pairs([EXACT_BUCKET]):
            copies.add(pairs)
        if settings.exact or settings.minhash:
            for pairs in copies.read():
                documents, _ = unpack(pairs)
                beside -= numbering.splits(documents)
                self._note(numbering, "removed", documents, np.full(len(documents), EXACT if settings.exact else NEAR))
        self._number_copies(numbering, copies)
        for shard in range(numbering.shards):
            self._write(shard, "removed", np.dtype("u1"))
            self._write(shard, "copies", np.dtype("<u4"))
        counted = {"test": int(beside[0]), "validation": int(beside[1])} if settings.minhash else {}
        write_report(self.new_file(self._folder / "near_copies.json"), counted)
        shutil.rmtree(self._work, ignore_errors=True)
        yield from ()

    def _note_near(self, numbering: Numbering) -> np.ndarray:
        """Note the training documents that go; return how many documents of each split are connected with a lower one."""
        names = [name for name in bucket_names(self._settings) if name != EXACT_BUCKET]
        components = find_components(self._read_pairs(names), self._work / "components", self._limit)
        candidates = SortedRuns(self._work / "candidates", self._limit // 4 + 1, _CANDIDATE, merge=_first_to_stay)
        lowest_ones = SortedRuns(self._work / "lowest", self._limit)
        connected = np.zeros(3, np.int64)
        for pairs in components.read():
            documents, lowest = unpack(pairs)
            connected += numbering.splits(documents)
            is_train = documents >= numbering.first_of_train
            self._note(numbering, "removed", documents[is_train], np.full(is_train.sum(), NEAR))
            is_train = lowest >= numbering.first_of_train
            lowest_ones.add(sort_unique(lowest[is_train]))
            # The lowest is of the class that stays before the others, but not the one with the lowest hash there.
            may_stay = is_train & (numbering.classes(documents) == numbering.classes(lowest))
            candidates.add(self._candidates(numbering, documents[may_stay], lowest[may_stay]))
        for lowest in lowest_ones.read():
            self._note(numbering, "removed", lowest, np.full(len(lowest), NEAR))
            candidates.add(self._candidates(numbering, lowest, lowest))
        for stay in candidates.read():
            documents = np.sort(stay["document"])
            self._note(numbering, "removed", documents, np.zeros(len(documents)))
        return connected

    def _candidates(self, numbering: Numbering, documents: np.ndarray, lowest: np.ndarray) -> np.ndarray:
        """Return CANDIDATEs of sorted documents."""
        records = np.empty(len(documents), _CANDIDATE)
        records["lowest"], records["document"] = lowest, documents
        end = 0
        for block, places in numbering.blocks(documents):
            start, end = end, end + len(places)
            records["digest"][start:end] = map_array(self._folder / "digests" / f"{block.shard:05d}", DIGEST)[places]
        return records

    def _number_copies(self, numbering: Numbering, copies: SortedRuns) -> None:
        """Note 1, 2, … for the documents of a text but the first."""
        by_first = SortedRuns(self._work / "by_first", self._limit)
        for pairs in copies.read():
            documents, first = unpack(pairs)
            by_first.add(first << np.uint64(32) | documents)
        last, last_count = -1, 0
        for pairs in by_first.read():
            first, documents = unpack(pairs)
            starts = np.flatnonzero(first_of_equal(first))
            counts = np.arange(len(first)) - np.repeat(starts, np.diff(np.append(starts, len(first)))) + 1
            counts[first == last] += last_count  # went on from the piece before
            order = np.argsort(documents)
            self._note(numbering, "copies", documents[order], counts[order])
            if len(first):
                last, last_count = int(first[-1]), int(counts[-1])

    def _read_pairs(self, buckets: list[str]) -> Iterator[np.ndarray]:
        for bucket in buckets:
            with (self._folder / f"{bucket}.pairs").open("rb") as file:
                while len(pairs := np.fromfile(file, PAIR, self._limit)):
                    yield pairs

    def _note(self, numbering: Numbering, kind: str, documents: np.ndarray, values: np.ndarray) -> None:
        """Append notes about sorted documents to the files of their shards."""
        notes_of = self._work / "notes" / kind
        notes_of.mkdir(parents=True, exist_ok=True)
        end = 0
        for block, places in numbering.blocks(documents):
            start, end = end, end + len(places)
            notes = np.empty(len(places), _NOTE)
            notes["place"], notes["value"] = places, values[start:end]
            with (notes_of / f"{block.shard:05d}").open("ab") as file:
                notes.tofile(file)

    def _write(self, shard: int, kind: str, dtype: np.dtype) -> None:
        """Write what was noted last about each document of a shard, in the order of the documents."""
        name = f"{shard:05d}"
        positions = np.fromfile(self._folder / "positions" / name, POSITION)
        by_class, path = np.zeros(len(positions), dtype), self._work / "notes" / kind / name
        if path.exists():
            notes = np.fromfile(path, _NOTE)
            by_class[notes["place"]] = notes["value"]
        values = np.empty_like(by_class)
        values[positions] = by_class
        values.tofile(self.new_file(self._folder / kind / name))


def removed_documents(folder: Path, shard: int) -> np.ndarray:
    """Return for every document of a shard 0 if it stays, else EXACT or NEAR: (documents,) uint8."""
    return np.fromfile(folder / "removed" / f"{shard:05d}", np.uint8)


def copy_numbers(folder: Path, shard: int) -> np.ndarray:
    """Return for every document of a shard how many of the same text have lower numbers: (documents,) uint32."""
    return np.fromfile(folder / "copies" / f"{shard:05d}", "<u4")


def _first_to_stay(candidates: np.ndarray) -> np.ndarray:
    """Return of each component the candidate with the lowest hash, sorted by component."""
    candidates = candidates[np.lexsort((candidates["document"], candidates["digest"], candidates["lowest"]))]
    return candidates[first_of_equal(candidates["lowest"])]
