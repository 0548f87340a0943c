"""A few documents of each kind for a person to look at, with what each step made of them.

A sample is random, since the hashes of names are, and the same whatever the number of shards and workers. It is small: a passage
of each text, not all of it.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document

from gpt.corpus.masking import mask_text

SAMPLE = "sample.jsonl"
"Beside the documents: a line with source, reason and number, then those that are kept of them."
KEPT = 50
"Documents of each source and reason."
_KINDS = 1000  # of source and reason: a filter of one's own may give each document another
_OTHER = "other reasons"
_SHOWN_CHARACTERS = 2000
_BEFORE, _AROUND = 150, 600  # characters before a difference, and in all
_PART_OF_NAME = str.maketrans("+", "-")

Describe = Callable[[], dict[str, Any]]


class Sample:
    """Those of the documents that were added whose names have the lowest hashes, by source and reason, and how many there were."""

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._chosen: dict[tuple[str, str], list[tuple[int, str, dict[str, Any]]]] = {}
        self.counts = Counter[tuple[str, str]]()

    def would_take(self, source: str, reason: str, name: str) -> bool:
        """Tell whether a document's name has one of the lowest hashes so far."""
        heap = self._chosen.get((source, reason))
        return not heap or len(heap) < self._size or key_of(name) < -heap[0][0]

    def add(self, source: str, reason: str, name: str, describe: Describe) -> None:
        """Count a document, and keep what `describe` returns if its name is one of the lowest."""
        kind = source, reason
        if kind not in self.counts and len(self.counts) >= _KINDS:
            kind = source, _OTHER
        self.counts[kind] += 1
        if self.would_take(*kind, name):
            self._keep(kind, (-key_of(name), name, describe()))

    def write(self, path: Path) -> None:
        """Write a line for each source and reason, then their documents, lowest first."""
        with path.open("wb") as file:
            for (source, reason), count in sorted(self.counts.items()):
                file.write(orjson.dumps({"source": source, "reason": reason, "documents": count}) + b"\n")
                for _, name, described in sorted(self._chosen[source, reason], key=lambda item: (-item[0], item[1])):
                    file.write(orjson.dumps({"source": source, "reason": reason, "name": name} | described) + b"\n")

    def merge(self, path: Path) -> None:
        """Add what another sample wrote, as if its documents had been added to this one."""
        with path.open("rb") as file:
            for record in map(orjson.loads, file):
                kind = record.pop("source"), record.pop("reason")
                if "documents" in record:
                    self.counts[kind] += record["documents"]
                    self._chosen.setdefault(kind, [])
                else:
                    self._keep(kind, (-key_of(name := record.pop("name")), name, record))

    def _keep(self, kind: tuple[str, str], item: tuple[int, str, dict[str, Any]]) -> None:
        heap = self._chosen.setdefault(kind, [])
        # Names differ in pieces of one document, whose hash is the same: the first one stays.
        if len(heap) < self._size:
            heapq.heappush(heap, _Item(item))
        elif heap[0] < (item := _Item(item)):
            heapq.heapreplace(heap, item)


class _Item(tuple[int, str, dict[str, Any]]):
    """What is kept, compared by hash and name: lowest hash last, and of one hash the first name last."""

    def __lt__(self, other: Any) -> bool:
        return self[0] < other[0] or (self[0] == other[0] and self[1] > other[1])


def key_of(name: str) -> int:
    """Return the hash of a document's name: the same for all pieces and copies of it, `<hash>-1` and `<hash>+1`."""
    head = name.translate(_PART_OF_NAME).partition("-")[0] if "/" not in name else name
    return int.from_bytes(hashlib.sha256(head.encode()).digest()[:8], "big")


def describe(document: Document, text: str | None = None) -> dict[str, Any]:
    """Return what a sample keeps of a document in the steps before it is named: its text, and what each step changed."""
    return beginning(document.text if text is None else text) | {"changes": changes(document)}


def beginning(text: str) -> dict[str, Any]:
    """Return the first characters of a text, and how many it has."""
    return {"text": text[:_SHOWN_CHARACTERS], "characters": len(text)}


def changes(document: Document) -> list[dict[str, Any]]:
    """Return what the steps made of a document: for each that changed it, the passages at the first difference.

    Where personal data is masked it is masked here too.
    """
    steps = document.metadata["steps"]
    if document.metadata.get("is_masked"):
        steps = [(name, mask_text(text)[0]) for name, text in steps]
    return [difference(name, before, after) for (_, before), (name, after) in pairwise(steps) if before != after]


def difference(step: str, before: str, after: str) -> dict[str, Any]:
    """Return two texts where they differ first, and how many characters both have."""
    at = _first_difference(before, after)
    start = max(0, at - _BEFORE)
    return {
        "step": step,
        "at": at,
        "before": before[start : start + _AROUND],
        "after": after[start : start + _AROUND],
        "characters": [len(before), len(after)],
    }


def _first_difference(first: str, second: str) -> int:
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
