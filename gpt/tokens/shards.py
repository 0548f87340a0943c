"""Token shards, memory-mapped as they are read, and the reader that makes one stream of them.

A split is `<split>_<number>.bin` files of little-endian integers, those of one source after those of another; `index.json` says
everything else about them.
Every document ends with <|endoftext|>, which no text encodes to, so document boundaries need no table.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt.errors import UserError
from gpt.files import read_json, sha256_json
from gpt.limits import open_files

_HINT = "run `gpt tokenize` again"


class Span(NamedTuple):
    """A part of a split's tokens."""

    start: int
    tokens: int


class TokenReader:
    """One split's tokens as one long array in memory-mapped files.

    Attributes: `tokens` (count), `text_bytes` (UTF-8 bytes of its documents), `documents_sha256`, `end_of_text`, and `sources`:
    where the tokens of each source lie.
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
        self._paths: list[Path] = []
        self.sources: dict[str, Span] = {}
        position = 0
        for shard in entry["shards"]:
            if "source" not in shard:
                raise UserError(f"{folder / 'index.json'}: does not say which source a shard is of; {_HINT}")
            path = folder / shard["file"]
            size = path.stat().st_size if path.exists() else -1
            if size != shard["tokens"] * dtype.itemsize:
                found = "missing" if size < 0 else f"{size} bytes long, not {shard['tokens'] * dtype.itemsize}"
                raise UserError(f"{path}: {found}; {_HINT}")
            self._paths.append(path)
            start, tokens = self.sources.get(shard["source"], (position, 0))
            self.sources[shard["source"]] = Span(start, tokens + shard["tokens"])
            position += shard["tokens"]
        self._ends = np.cumsum([shard["tokens"] for shard in entry["shards"]])
        # A map keeps its file open, and data may have more shards than a process may have open files. Training reads two splits.
        self._map = lru_cache(max(1, open_files() // 4))(partial(np.memmap, dtype=dtype, mode="r"))

    def read(self, start: int, length: int) -> np.ndarray:
        """Return tokens [start, start + length) as int64 of shape (length,), across shards where need be."""
        assert 0 <= start and start + length <= self.tokens, "the caller stays inside the split"
        pieces = []
        first = int(np.searchsorted(self._ends, start, side="right"))
        for number in range(first, len(self._paths)):
            offset = start - (int(self._ends[number - 1]) if number else 0)
            piece = self._map(self._paths[number])[offset : offset + length]
            pieces.append(piece.astype(np.int64))  # a copy: what looks into a map would keep its file open
            start, length = start + len(piece), length - len(piece)
            if not length:
                break
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    def document_spans(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each document, its <|endoftext|> included."""
        start = 0
        for path, end in zip(self._paths, self._ends, strict=True):
            shard = self._map(path)
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
