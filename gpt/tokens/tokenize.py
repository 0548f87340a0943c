"""Documents to token shards: encoded (encode.py), then put into one global order that a seed decides.

Every document (and every copy of it, where a source counts more than once) has a key, the hash of the seed and its own
name; a split's stream is its documents by key. So the tokens do not depend on how the documents were divided, nor on the
workers. The stream is cut into files of exactly `shard_tokens`; a file's task finds its documents from histograms of keys,
without sorting the whole split anywhere.
"""

import hashlib
import math
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document

from gpt.corpus.arrays import read_between
from gpt.corpus.documents import describe_documents
from gpt.corpus.splits import SPLITS
from gpt.errors import UserError
from gpt.files import atomic_folder, sha256_file, sha256_json, write_json
from gpt.params.engine import Engine
from gpt.params.tokens import Tokenize
from gpt.params.types import flatten
from gpt.tasks.executors import Tasks
from gpt.tasks.reports import add_up, link_files, read_reports
from gpt.tasks.steps import WritingStep
from gpt.tasks.work import work_folder
from gpt.tokens.encode import SplitFile, encode, load_encoded, token_dtype
from gpt.tokens.tokenizer import load_tokenizer, tokenizer_id

ENTRY = np.dtype([("key", "<u8"), ("start", "<u8"), ("tokens", "<u4")])
"A document's place in the global order, where its tokens begin in the file of its task, and how many they are."
_BUCKET_BITS = 12  # of a key: a histogram has so many buckets of equal width


def tokenize(
    settings: Tokenize, engine: Engine, documents: Path, tokenizer: Path, output: Path, metrics: Path
) -> dict[str, Any]:
    """Write the token shards and the index of all splits to the folder `output`, statistics to `metrics`; return the index.

    Raises `UserError` for documents that are not as `prepare` wrote them, or weights that leave nothing to train on.
    """
    encoding = load_tokenizer(tokenizer)
    described = describe_documents(documents)
    dtype = token_dtype(encoding.n_vocab)
    files = [(split, entry) for split in SPLITS for entry in described[split]["files"]]
    decide = flatten(settings.model_dump(mode="json"), "tokenize")
    inputs = {documents.as_posix(): sha256_json(described), tokenizer.as_posix(): tokenizer_id(tokenizer)}
    with work_folder(output, "tokenize", decide, inputs) as work, Tasks(engine, work / "tasks") as tasks:
        encoded = encode(files, documents, tokenizer, engine, output.parent / f".{output.name}.encoded")
        placed = work / "placed"
        tasks.run("place", len(files), _Place(settings, files, encoded, placed))
        reports = read_reports(placed)
        plan: list[tuple[str, int, list[int]]] = []
        for split in SPLITS:
            ranks = [rank for rank, (of, _) in enumerate(files) if of == split]
            total = sum(reports[rank]["tokens"] for rank in ranks)
            if not total:
                raise UserError(f"params.yaml: tokenize.weights leave no document in {split}; raise them")
            plan += [(split, number, ranks) for number in range(math.ceil(total / settings.shard_tokens))]
            _histogram(placed, ranks).tofile(placed / f"{split}.histogram")  # added up once, not by every task
        shards = work / "shards"
        tasks.run("shuffle", len(plan), _Shuffle(plan, encoded, placed, shards, settings.shard_tokens, dtype))
        written = read_reports(shards)
        index: dict[str, Any] = {
            "dtype": dtype.str,
            "vocab_size": encoding.n_vocab,
            "end_of_text": encoding.eot_token,
            "tokenizer_id": tokenizer_id(tokenizer),
            "splits": {},
        }
        for split in SPLITS:
            sources = add_up(reports[rank]["sources"] for rank, (of, _) in enumerate(files) if of == split)
            index["splits"][split] = {
                **{key: sum(source[key] for source in sources.values()) for key in ("tokens", "documents", "bytes")},
                "documents_sha256": described[split]["sha256"],
                "sources": sources,
                "shards": [report for (of, *_), report in zip(plan, written, strict=True) if of == split],
            }
        with atomic_folder(output) as folder:
            link_files(sorted(shards.glob("*.bin")), folder)
            write_json(folder / "index.json", index)
            write_json(metrics, statistics(index))
    return index


def statistics(index: dict[str, Any]) -> dict[str, Any]:
    """Return what a person compares of an index: tokens per byte and per word (fertility), by split and source."""

    def ratios(entry: dict[str, Any]) -> dict[str, float]:
        return {
            **{key: entry[key] for key in ("documents", "bytes", "tokens")},
            "tokens_per_byte": round(entry["tokens"] / entry["bytes"], 6),
        }

    return {
        split: ratios(entry)
        | {
            "by_source": {
                name: ratios(source) | {"tokens_per_word": round(source["tokens"] / max(source["words"], 1), 6)}
                for name, source in entry["sources"].items()
            }
        }
        for split, entry in index["splits"].items()
    }


def document_key(seed: int, name: str, copy: int) -> int:
    """Return where a copy of the document `name` stands in the global order: in [0, 2 ** 64)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{copy}:{name}".encode(), digest_size=8).digest(), "big")


def count_copies(name: str, weight: float) -> int:
    """Return how often an epoch has a document: the weight, its fraction decided by the document's hash."""
    whole = math.floor(weight)
    place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=b"weight").digest(), "big") / 2**64
    return whole + (place < weight - whole)


def _histogram(placed: Path, ranks: list[int]) -> np.ndarray:
    """Return how many tokens the files of these tasks have in each bucket of keys."""
    histogram = np.zeros(1 << _BUCKET_BITS, np.int64)
    for rank in ranks:
        histogram += np.fromfile(placed / f"{rank:05d}.histogram", np.int64)
    return histogram


class _Place(WritingStep):
    """Task f: note where each document of an encoded file, and every copy of it, belongs in the order of its split."""

    name = "place"

    def __init__(self, settings: Tokenize, files: list[SplitFile], encoded: Path, output: Path) -> None:
        super().__init__()
        self._settings, self._files, self._encoded, self._output = settings, files, encoded, output

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        split, encoded = self._files[rank][0], load_encoded(self._encoded, rank)
        seed, weights = self._settings.shuffle_seed, self._settings.weights
        keys, starts, lengths = array("Q"), array("Q"), array("I")
        sources: dict[str, Counter[str]] = defaultdict(Counter)
        position = 0
        for name, (length, size, words, number, _) in zip(encoded.names(), encoded.documents.tolist(), strict=True):
            source = encoded.sources[number]
            if copies := count_copies(name, weights.get(source, 1.0)) if split == "train" else 1:
                for copy in range(copies):
                    keys.append(document_key(seed, name, copy))
                    starts.append(position)
                    lengths.append(length)
                sources[source].update(
                    {
                        "documents": copies,
                        "tokens": copies * length,
                        "bytes": copies * size,
                        "words": copies * words,
                        f"length {length.bit_length() - 1}": copies,
                    }
                )
            position += length
        table = np.empty(len(keys), ENTRY)
        table["key"], table["start"], table["tokens"] = keys, starts, lengths
        table.sort(order=("key", "start"))
        table.tofile(self.new_file(self._output / f"{rank:05d}.entries"))
        buckets = (table["key"] >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)
        histogram = np.zeros(1 << _BUCKET_BITS, np.int64)
        np.add.at(histogram, buckets, table["tokens"])
        histogram.tofile(self.new_file(self._output / f"{rank:05d}.histogram"))
        self.write_report(self._output, rank, {"tokens": int(histogram.sum()), "sources": sources})
        yield from ()


class _Shuffle(WritingStep):
    """Task s: write shard s of the plan, (split, number of the shard in it, tasks that encoded the split)."""

    name = "shuffle"

    def __init__(
        self,
        plan: list[tuple[str, int, list[int]]],
        encoded: Path,
        placed: Path,
        output: Path,
        shard_tokens: int,
        dtype: np.dtype,
    ) -> None:
        super().__init__()
        self._plan, self._encoded, self._placed, self._output = plan, encoded, placed, output
        self._shard_tokens, self._dtype = shard_tokens, dtype

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        split, number, ranks = self._plan[rank]
        ends = np.cumsum(np.fromfile(self._placed / f"{split}.histogram", np.int64))
        begin, end = number * self._shard_tokens, min((number + 1) * self._shard_tokens, int(ends[-1]))
        first, last = int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, end, "left"))
        entries = self._read(ranks, first, last)
        # Positions in the split's stream at which the documents of these buckets end.
        lasts = (int(ends[first - 1]) if first else 0) + np.cumsum(entries["tokens"], dtype=np.int64)
        inside = slice(int(np.searchsorted(lasts, begin, "right")), int(np.searchsorted(lasts, end, "left")) + 1)
        path = self.new_file(self._output / f"{split}_{number:05d}.bin")
        self._write(path, ranks, entries[inside], lasts[inside], begin, end)
        report = {"file": path.name, "tokens": end - begin, "sha256": sha256_file(path)}
        self.write_report(self._output, rank, report)
        yield from ()

    def _write(
        self, path: Path, ranks: list[int], entries: np.ndarray, lasts: np.ndarray, begin: int, end: int
    ) -> None:
        """Write positions [begin, end) of the split's stream, in which the documents of `entries` end at `lasts`.

        One file of encoded documents after the other, each forwards: there may be more of them than a process may have open,
        and on a shared filesystem opening them over and over takes longer than reading.
        """
        size, tokens = self._dtype.itemsize, entries["tokens"].astype(np.int64)
        starts = np.maximum(lasts - tokens, begin)
        lengths = np.minimum(lasts, end) - starts
        offsets = entries["start"].astype(np.int64) + starts - (lasts - tokens)
        order = np.lexsort((offsets, entries["file"]))
        with path.open("wb") as shard:
            for group in np.split(order, np.flatnonzero(np.diff(entries["file"][order])) + 1):
                of = ranks[entries["file"][group[0]]]
                # Read, not mapped: a map of all tokens, in an order of chance, would count as this process's memory.
                with (self._encoded / f"{of:05d}.tokens").open("rb", buffering=0) as file:
                    for place in group:
                        length = int(lengths[place]) * size
                        piece = os.pread(file.fileno(), length, int(offsets[place]) * size)
                        assert len(piece) == length, "the file is as its entries say"
                        shard.seek(int(starts[place] - begin) * size)
                        shard.write(piece)

    def _read(self, ranks: list[int], first: int, last: int) -> np.ndarray:
        """Return the entries of buckets first to last in their global order, each with the number of its file."""
        pieces = []
        low, high = first << (64 - _BUCKET_BITS), (last + 1) << (64 - _BUCKET_BITS)
        for number, of in enumerate(ranks):
            table = read_between(self._placed / f"{of:05d}.entries", ENTRY, low, high)
            piece = np.empty(len(table), [*ENTRY.descr, ("file", "<i4")])
            for field in ENTRY.names or ():
                piece[field] = table[field]
            piece["file"] = number
            pieces.append(piece)
        entries = np.concatenate(pieces)
        return entries[np.argsort(entries["key"], kind="stable")]
