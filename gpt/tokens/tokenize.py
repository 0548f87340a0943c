"""Documents to token shards: encoded (encode.py), then put into an order that a seed decides, each source by itself.

Every document has a key, the hash of the seed and its own name; a source's stream is its documents by key, and a split is the
streams of its sources, one after the other by name. So the tokens do not depend on how the documents were divided, nor on the
workers, and how training mixes sources (batches.py) is no matter here. A stream is cut into files of exactly `shard_tokens`; a
file's task finds its documents from histograms of keys, without sorting a whole stream anywhere.
"""

import hashlib
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
"A document's place in the order of its source, where its tokens begin in the file of its task, and how many they are."
_BUCKET_BITS = 12  # of a key: a histogram has so many buckets of equal width
Table = tuple[int, int]
"The documents of a source in a file of documents: the task that encoded it, and the source's number there."


class Shard(NamedTuple):
    """A shard file that is to be written."""

    file: str
    source: str
    histogram: str
    "The file that says how many tokens the source's stream has in each bucket of keys."
    number: int
    "Of the shard in that stream."
    tables: list[Table]


def tokenize(
    settings: Tokenize, engine: Engine, documents: Path, tokenizer: Path, output: Path, metrics: Path
) -> dict[str, Any]:
    """Write the token shards and the index of all splits to the folder `output`, statistics to `metrics`; return the index.

    Raises `UserError` for documents that are not as `prepare` wrote them, or a split without any.
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
        index: dict[str, Any] = {
            "dtype": dtype.str,
            "vocab_size": encoding.n_vocab,
            "end_of_text": encoding.eot_token,
            "tokenizer_id": tokenizer_id(tokenizer),
            "splits": {},
        }
        plan: list[Shard] = []
        for split in SPLITS:
            ranks = [rank for rank, (of, _) in enumerate(files) if of == split]
            sources = add_up(reports[rank]["sources"] for rank in ranks) or {}
            if not sources:
                raise UserError(f"{documents}: no document in {split}; run `gpt prepare` again")
            shards = _plan(split, settings.shard_tokens, placed, {rank: reports[rank]["numbers"] for rank in ranks})
            plan += shards
            index["splits"][split] = {
                **{key: sum(source[key] for source in sources.values()) for key in ("tokens", "documents", "bytes")},
                "documents_sha256": described[split]["sha256"],
                "sources": sources,
                "shards": len(shards),
            }
        written = work / "shards"
        tasks.run("shuffle", len(plan), _Shuffle(plan, encoded, placed, written, settings.shard_tokens, dtype))
        shard_reports = iter(read_reports(written))
        for entry in index["splits"].values():
            entry["shards"] = [next(shard_reports) for _ in range(entry["shards"])]
        with atomic_folder(output) as folder:
            link_files(sorted(written.glob("*.bin")), folder)
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


def document_key(seed: int, name: str) -> int:
    """Return where the document `name` stands in the order of its source: in [0, 2 ** 64)."""
    # The 0 is history: the number of a copy, when documents were repeated here.
    return int.from_bytes(hashlib.blake2b(f"{seed}:0:{name}".encode(), digest_size=8).digest(), "big")


def _plan(split: str, shard_tokens: int, placed: Path, numbers: dict[int, dict[str, int]]) -> list[Shard]:
    """Return the shards of a split, by source; `numbers` are the sources' numbers in the file of each task."""
    plan: list[Shard] = []
    for source in sorted({source for names in numbers.values() for source in names}):
        tables = [(rank, names[source]) for rank, names in numbers.items() if source in names]
        # Added up once, not by every task.
        histogram = np.zeros(1 << _BUCKET_BITS, np.int64)
        for table in tables:
            histogram += np.fromfile(_table_path(placed, table, "histogram"), np.int64)
        name = f"{split}_{len(plan):05d}.histogram"
        histogram.tofile(placed / name)
        first = len(plan)
        plan += [
            Shard(f"{split}_{first + number:05d}.bin", source, name, number, tables)
            for number in range(-(-int(histogram.sum()) // shard_tokens))
        ]
    return plan


def _table_path(placed: Path, table: Table, ending: str) -> Path:
    rank, number = table
    return placed / f"{rank:05d}_{number:05d}.{ending}"


class _Place(WritingStep):
    """Task f: note where each document of an encoded file belongs in the order of its source."""

    name = "place"

    def __init__(self, settings: Tokenize, files: list[SplitFile], encoded: Path, output: Path) -> None:
        super().__init__()
        self._settings, self._files, self._encoded, self._output = settings, files, encoded, output

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        encoded, seed = load_encoded(self._encoded, rank), self._settings.shuffle_seed
        places = [(array("Q"), array("Q"), array("I")) for _ in encoded.sources]
        sources: dict[str, Counter[str]] = defaultdict(Counter)
        position = 0
        for name, (length, size, words, number, _) in zip(encoded.names(), encoded.documents.tolist(), strict=True):
            keys, starts, lengths = places[number]
            keys.append(document_key(seed, name))
            starts.append(position)
            lengths.append(length)
            counts = {"documents": 1, "tokens": length, "bytes": size, "words": words}
            sources[encoded.sources[number]].update(counts | {f"length {length.bit_length() - 1}": 1})
            position += length
        for number, (keys, starts, lengths) in enumerate(places):
            table = np.empty(len(keys), ENTRY)
            table["key"], table["start"], table["tokens"] = keys, starts, lengths
            table.sort(order=("key", "start"))
            table.tofile(self.new_file(_table_path(self._output, (rank, number), "entries")))
            buckets = (table["key"] >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)
            histogram = np.zeros(1 << _BUCKET_BITS, np.int64)
            np.add.at(histogram, buckets, table["tokens"])
            histogram.tofile(self.new_file(_table_path(self._output, (rank, number), "histogram")))
        numbers = {name: number for number, name in enumerate(encoded.sources)}
        self.write_report(self._output, rank, {"sources": sources, "numbers": numbers})
        yield from ()


class _Shuffle(WritingStep):
    """Task s: write shard s of the plan."""

    name = "shuffle"

    def __init__(
        self,
        plan: list[Shard],
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
        shard = self._plan[rank]
        ends = np.cumsum(np.fromfile(self._placed / shard.histogram, np.int64))
        begin = shard.number * self._shard_tokens
        end = min(begin + self._shard_tokens, int(ends[-1]))
        first, last = int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, end, "left"))
        entries = self._read(shard.tables, first, last)
        # Positions in the source's stream at which the documents of these buckets end.
        lasts = (int(ends[first - 1]) if first else 0) + np.cumsum(entries["tokens"], dtype=np.int64)
        inside = slice(int(np.searchsorted(lasts, begin, "right")), int(np.searchsorted(lasts, end, "left")) + 1)
        path = self.new_file(self._output / shard.file)
        self._write(path, shard.tables, entries[inside], lasts[inside], begin, end)
        report = {"file": path.name, "source": shard.source, "tokens": end - begin, "sha256": sha256_file(path)}
        self.write_report(self._output, rank, report)
        yield from ()

    def _write(
        self, path: Path, tables: list[Table], entries: np.ndarray, lasts: np.ndarray, begin: int, end: int
    ) -> None:
        """Write positions [begin, end) of the source's stream, in which the documents of `entries` end at `lasts`.

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
                of, _ = tables[entries["file"][group[0]]]
                # Read, not mapped: a map of all tokens, in an order of chance, would count as this process's memory.
                with (self._encoded / f"{of:05d}.tokens").open("rb", buffering=0) as file:
                    for place in group:
                        length = int(lengths[place]) * size
                        piece = os.pread(file.fileno(), length, int(offsets[place]) * size)
                        assert len(piece) == length, "the file is as its entries say"
                        shard.seek(int(starts[place] - begin) * size)
                        shard.write(piece)

    def _read(self, tables: list[Table], first: int, last: int) -> np.ndarray:
        """Return the entries of buckets first to last in their order, each with the number of its table."""
        pieces = []
        low, high = first << (64 - _BUCKET_BITS), (last + 1) << (64 - _BUCKET_BITS)
        for number, place in enumerate(tables):
            table = read_between(_table_path(self._placed, place, "entries"), ENTRY, low, high)
            piece = np.empty(len(table), [*ENTRY.descr, ("file", "<i4")])
            for field in ENTRY.names or ():
                piece[field] = table[field]
            piece["file"] = number
            pieces.append(piece)
        entries = np.concatenate(pieces)
        return entries[np.argsort(entries["key"], kind="stable")]
