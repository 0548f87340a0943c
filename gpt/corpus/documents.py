"""The documents that `prepare` wrote, for the stages after it."""

import hashlib
import os
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gpt.corpus.arrays import find_places, read_places
from gpt.corpus.splits import SPLITS
from gpt.errors import UserError
from gpt.files import read_json, verify_file

PLACE = np.dtype([("key", "<u8"), ("start", "<u8"), ("size", "<u4"), ("check", "<u8")])
"A document's key, its first byte in the file, how many bytes its line has, and a part of their hash."
_AGAIN = "run `gpt prepare` again"
_PIECES = 20
"A sample has at least about so many documents, or parts of them, where there are so many."
_PLACES_AT_ONCE = 1 << 16


def read_documents(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yield the documents of a split that `prepare` wrote: id, source, text, words and, if mapped, metadata."""
    for entry in describe_documents(folder)[split]["files"]:
        yield from read_file(folder, entry)


def sample_texts(folder: Path, split: str, wanted_bytes: int) -> Iterator[str]:
    """Yield texts of about so many bytes of a split: documents chosen by their hash, in the order of the files.

    Of one that is longer than a twentieth of the sample only the beginning is taken, but the likelier the longer it is: a few
    long texts have their shares too, and a single one neither fills the sample nor leaves it empty. Little more is read of
    the files of documents than what is taken, and long ones whole. Raises `UserError` if one is not as `prepare` wrote it.
    """
    described = describe_documents(folder)[split]
    if wanted_bytes >= described["bytes"]:
        yield from (document["text"] for document in read_documents(folder, split))
        return
    below = -(-(wanted_bytes << 64) // described["bytes"])
    paths = [folder / entry["file"] for entry in described["files"]]
    listed = sum(_size(_places_of(path)) for path in paths) // PLACE.itemsize
    if listed != described["documents"]:
        raise UserError(f"{folder}: lists {listed:,} of {described['documents']:,} documents of {split}; {_AGAIN}")
    for path in paths:
        yield from _read_sample(path, below, max(1, wanted_bytes // _PIECES))


class Places:
    """Where the documents of a file are, in the order of their keys: those that a sample takes stand first."""

    def __init__(self) -> None:
        self._records, self._end = bytearray(), 0

    def add(self, name: str, line: bytes) -> None:
        """Note the next document of the file, by its id and its line."""
        self._records += np.array([(_key(name), self._end, len(line), _check(line))], PLACE).tobytes()
        self._end += len(line)

    def write(self, path: Path) -> None:
        """Write them to `path`: the name of the file of documents, but that it ends in `.places`."""
        records = np.frombuffer(self._records, PLACE)
        records[np.lexsort((records["start"], records["key"]))].tofile(path)


def describe_documents(folder: Path) -> dict[str, Any]:
    """Return documents.json: by split its counts, its files (file, bytes, sha256) and the sum of its texts' hashes."""
    return read_json(folder / "documents.json", "run `gpt prepare` first", SPLITS)


def read_file(folder: Path, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the documents of a file of documents.json; raise `UserError` if it is not the one that `prepare` wrote."""
    path = folder / entry["file"]
    verify_file(path, entry["sha256"], "documents.json", _AGAIN)
    with path.open("rb") as file:
        yield from map(orjson.loads, file)


def _read_sample(path: Path, below: int, long: int) -> Iterator[str]:
    """Yield the texts of the documents whose keys are below a bound, and parts of those of more than `long` bytes.

    The document that comes next is read too: if all of these have the keys that are listed, no other is below.
    """

    def bound(size: int) -> int:
        return min(below * max(size, long) // long, 1 << 64)

    listed = _places_of(path)
    (last,) = find_places(listed, PLACE, (below,))
    count = _size(listed) // PLACE.itemsize
    first = min(last + 1, count)
    records = read_places(listed, PLACE, 0, first).tolist()
    for start in range(first, count, _PLACES_AT_ONCE):
        others = read_places(listed, PLACE, start, min(start + _PLACES_AT_ONCE, count))
        records += [each for each in others[others["size"] > long].tolist() if each[0] < bound(each[2])]
    with path.open("rb", buffering=0) as file:
        for key, start, size, check in sorted(records, key=itemgetter(1)):
            line = os.pread(file.fileno(), size, start)
            document = orjson.loads(line) if _check(line) == check else {"id": ""}
            if _key(document["id"]) != key:
                raise UserError(f"{path}: the document at byte {start} is not as gpt prepare wrote it; {_AGAIN}")
            if key < bound(size):
                text = document["text"]
                yield text[: -(-len(text) * below // bound(size))]


def _key(name: str) -> int:
    """Return what decides whether a sample takes a document: the part of a split below a bound is a part of all texts."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _check(line: bytes) -> int:
    return int.from_bytes(hashlib.sha256(line).digest()[:8], "big")


def _places_of(path: Path) -> Path:
    return path.with_suffix(".places")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {_AGAIN}") from None
