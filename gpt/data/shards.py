"""Documents as memory-mapped token shards, and the reader that makes one stream of them.

A split is `<split>_<number>.bin` files of little-endian integers; `index.json` says everything else about them.
Every document ends with <|endoftext|>, which no text encodes to, so document boundaries need no table.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from gpt.data.corpus import SPLITS, read_documents
from gpt.data.tokenizer import load_tokenizer, tokenizer_id
from gpt.errors import UserError
from gpt.files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from gpt.params import Tokenize

_DOCUMENTS_PER_BATCH = 256
_HINT = "run `gpt tokenize` again"


def tokenize(settings: Tokenize, documents: Path, tokenizer: Path, output: Path) -> dict[str, Any]:
    """Write the token shards and the index of all splits to the folder `output`; return the index."""
    encoding = load_tokenizer(tokenizer)
    sources = read_json(documents / "documents.json", "run `gpt prepare` first", SPLITS)
    _verify_documents(documents, sources)
    dtype = np.dtype("<u2" if encoding.n_vocab <= 2**16 else "<u4")
    with atomic_folder(output) as folder:
        splits = {}
        for split in SPLITS:
            writer = _ShardWriter(folder, split, dtype, settings.shard_tokens)
            for tokens in _encode_documents(encoding, documents / f"{split}.jsonl"):
                writer.write(np.asarray(tokens, dtype=dtype))
            splits[split] = {
                "tokens": writer.total,
                "documents": sources[split]["documents"],
                "bytes": sources[split]["bytes"],
                "documents_sha256": sources[split]["sha256"],
                "shards": writer.finish(),
            }
        index = {
            "dtype": dtype.str,
            "vocab_size": encoding.n_vocab,
            "end_of_text": encoding.eot_token,
            "tokenizer_id": tokenizer_id(tokenizer),
            "splits": splits,
        }
        write_json(folder / "index.json", index)
    return index


class TokenReader:
    """One split's tokens as one long array in memory-mapped files.

    Attributes: `tokens` (count), `text_bytes` (UTF-8 bytes of its documents), `documents_sha256`, `end_of_text`.
    Raises `UserError` if the index or a shard is missing or a shard's size is not the index's.
    """

    def __init__(self, folder: Path, split: str) -> None:
        index = read_index(folder)
        entry = index["splits"][split]
        self.tokens: int = entry["tokens"]
        self.documents: int = entry["documents"]
        self.text_bytes: int = entry["bytes"]
        self.documents_sha256: str = entry["documents_sha256"]
        self.end_of_text: int = index["end_of_text"]
        self.vocab_size: int = index["vocab_size"]
        dtype = np.dtype(index["dtype"])
        self._shards: list[np.ndarray] = []
        for shard in entry["shards"]:
            path = folder / shard["file"]
            size = path.stat().st_size if path.exists() else -1
            if size != shard["tokens"] * dtype.itemsize:
                found = "missing" if size < 0 else f"{size} bytes long, not {shard['tokens'] * dtype.itemsize}"
                raise UserError(f"{path}: {found}; {_HINT}")
            self._shards.append(np.memmap(path, dtype=dtype, mode="r"))
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    def read(self, start: int, length: int) -> np.ndarray:
        """Return tokens [start, start + length) as int64 of shape (length,), across shards where need be."""
        assert 0 <= start and start + length <= self.tokens, "the caller stays inside the split"
        pieces = []
        first = int(np.searchsorted(self._ends, start, side="right"))
        for number in range(first, len(self._shards)):
            offset = start - (int(self._ends[number - 1]) if number else 0)
            piece = self._shards[number][offset : offset + length]
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
            if not length:
                break
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, dtype=np.int64)

    def document_spans(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each document, its <|endoftext|> included."""
        start = 0
        for shard, end in zip(self._shards, self._ends, strict=True):
            base = int(end) - len(shard)
            for position in np.flatnonzero(shard == self.end_of_text):
                yield start, base + int(position) + 1
                start = base + int(position) + 1


def read_index(folder: Path) -> dict[str, Any]:
    """Return index.json of a token folder; its hash identifies the data (see `data_id`)."""
    keys = ("dtype", "vocab_size", "end_of_text", "tokenizer_id", "splits")
    return read_json(folder / "index.json", "run `gpt tokenize` first", keys)


def data_id(folder: Path) -> str:
    """Return the hash of the index, which holds the hash of every shard and of the tokenizer."""
    return sha256_json(read_index(folder))


def verify_shards(folder: Path, splits: Iterable[str] = SPLITS) -> None:
    """Raise `UserError` that gives both hashes if the bytes of a shard of `splits` are not the index's."""
    index = read_index(folder)
    for split in splits:
        for shard in index["splits"][split]["shards"]:
            path = folder / shard["file"]
            found = sha256_file(path) if path.exists() else "no file"
            if found != shard["sha256"]:
                raise UserError(f"{path}: SHA-256 is {found}, the index says {shard['sha256']}; {_HINT}")


def _verify_documents(folder: Path, counts: dict[str, Any]) -> None:
    """Raise `UserError` if a split is not what documents.json counts: the index repeats its bytes and hash."""
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        found = sha256_file(path) if path.exists() else "no file"
        if found != counts[split]["sha256"]:
            raise UserError(
                f"{path}: SHA-256 is {found}, documents.json says {counts[split]['sha256']}; run `gpt prepare` again"
            )


def _encode_documents(encoding: tiktoken.Encoding, path: Path) -> Iterator[list[int]]:
    documents = read_documents(path)
    while batch := list(islice(documents, _DOCUMENTS_PER_BATCH)):
        for tokens in encoding.encode_ordinary_batch(batch, num_threads=os.cpu_count() or 1):
            tokens.append(encoding.eot_token)
            yield tokens


class _ShardWriter:
    """Writes a stream of tokens to files of at most `limit` tokens, hashing as it goes."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, limit: int) -> None:
        self.total = 0
        self._folder, self._split, self._dtype, self._limit = folder, split, dtype, limit
        self._shards: list[dict[str, Any]] = []
        self._file = None
        self._room = 0

    def write(self, tokens: np.ndarray) -> None:
        while len(tokens):
            if not self._room:
                self._open_next()
            piece, tokens = tokens[: self._room], tokens[self._room :]
            data = piece.astype(self._dtype).tobytes()
            assert self._file is not None
            self._file.write(data)
            self._digest.update(data)
            self._room -= len(piece)
            self.total += len(piece)

    def finish(self) -> list[dict[str, Any]]:
        self._close()
        return self._shards

    def _open_next(self) -> None:
        self._close()
        self._file = (self._folder / f"{self._split}_{len(self._shards):05d}.bin").open("wb")
        self._digest = hashlib.sha256()
        self._room = self._limit

    def _close(self) -> None:
        if self._file is None:
            return
        self._file.close()
        tokens = self._limit - self._room
        name = Path(self._file.name).name
        self._shards.append({"file": name, "tokens": tokens, "sha256": self._digest.hexdigest()})
        self._file = None
