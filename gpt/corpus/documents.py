"""The documents that `prepare` wrote, for the stages after it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from gpt.corpus.splits import SPLITS
from gpt.files import read_json, verify_file


def read_documents(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yield the documents of a split that `prepare` wrote: id, source, text, words and, if mapped, metadata."""
    for entry in describe_documents(folder)[split]["files"]:
        yield from read_file(folder, entry)


def sample_texts(folder: Path, split: str, wanted_bytes: int) -> Iterator[str]:
    """Yield the texts of about so many bytes of a split, documents chosen by their hash, in the order of the files."""
    share = wanted_bytes / max(describe_documents(folder)[split]["bytes"], 1)
    for document in read_documents(folder, split):
        if share >= 1 or int.from_bytes(hashlib.sha256(document["id"].encode()).digest()[:8], "big") / 2**64 < share:
            yield document["text"]


def describe_documents(folder: Path) -> dict[str, Any]:
    """Return documents.json: by split its counts, its files (file, bytes, sha256) and the sum of its texts' hashes."""
    return read_json(folder / "documents.json", "run `gpt prepare` first", SPLITS)


def read_file(folder: Path, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the documents of a file of documents.json; raise `UserError` if it is not the one that `prepare` wrote."""
    path = folder / entry["file"]
    verify_file(path, entry["sha256"], "documents.json", "run `gpt prepare` again")
    with path.open("rb") as file:
        yield from map(orjson.loads, file)
