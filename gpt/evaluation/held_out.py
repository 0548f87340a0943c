"""Held-out documents as a model reads them: those of data/documents, in the tokens of the model's own tokenizer.

From the documents and not from data/tokens: so any model, whatever its tokenizer, is measured on the same documents, and each piece
knows its document and source.
"""

import hashlib
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.documents import read_documents
from gpt.tokens.encoding import Encoding
from gpt.tokens.tokenizer import encode_with_sizes

HELD_OUT = ("validation", "test")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A document to measure a model on."""

    id: str
    source: str
    text_sha256: bytes
    text_bytes: int
    "UTF-8 bytes."
    tokens: np.ndarray
    "(tokens,) integers, <|endoftext|> at the end."
    sizes: np.ndarray
    "(tokens,) uint32: UTF-8 bytes of the text that each token stands for; they add up to `text_bytes`."


def read_held_out(folder: Path, split: str, encoding: Encoding, max_tokens: int = 0) -> Iterator[HeldOut]:
    """Yield documents of a split of data/documents: all if `max_tokens` is 0, else those that `take_tokens` takes."""
    documents = read_documents(folder, split)
    if max_tokens:
        yield from take_tokens(documents, encoding, max_tokens)
    else:
        yield from (encode(document, encoding) for document in documents)


def encode(document: dict[str, Any], encoding: Encoding) -> HeldOut:
    """Return a document, an object with id, source and text, in the tokens of `encoding`."""
    text = document["text"].encode()
    tokens, sizes = encode_with_sizes(encoding, document["text"])
    return HeldOut(document["id"], document["source"], hashlib.sha256(text).digest(), len(text), tokens, sizes)


def take_tokens(documents: Iterable[dict[str, Any]], encoding: Encoding, max_tokens: int) -> Iterator[HeldOut]:
    """Yield the first documents by the hash of their ids: as many as have at most `max_tokens` together, but at least one.

    Which these are does not depend on the order in which the documents come. Only these and one other are held.
    """
    taken: list[tuple[bytes, HeldOut]] = []
    tokens, bound = 0, b"\xff" * 33  # above every hash
    for document in documents:
        key = hashlib.sha256(document["id"].encode()).digest()
        if key >= bound:
            continue
        new = encode(document, encoding)
        insort(taken, (key, new), key=lambda entry: entry[0])
        tokens += len(new.tokens)
        while tokens > max_tokens and len(taken) > 1:
            bound, last = taken.pop()
            tokens -= len(last.tokens)
    yield from (document for _, document in taken)


def sum_of_hashes(documents: Iterable[bytes]) -> str:
    """Return what names a set of documents in documents.json, whatever their order: the sum of their texts' SHA-256."""
    return f"{sum(int.from_bytes(digest, 'big') for digest in documents) % 2**256:064x}"
