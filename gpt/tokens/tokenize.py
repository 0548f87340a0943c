"""Documents to token shards: encoded in parallel, then put into one global order that a seed decides.

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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from gpt.corpus.arrays import read_between
from gpt.corpus.documents import describe_documents, read_file
from gpt.corpus.splits import SPLITS
from gpt.errors import UserError
from gpt.files import atomic_folder, write_json
from gpt.params.engine import Engine
from gpt.params.tokens import Tokenize
from gpt.tasks.executors import Tasks
from gpt.tasks.work import add_up, link_files, read_reports, work_folder, write_report
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
    dtype = np.dtype("<u2" if encoding.n_vocab <= 2**16 else "<u4")
    files = [(split, entry) for split in SPLITS for entry in described[split]["files"]]
    identity = {
        "settings": settings.model_dump(mode="json"),
        "documents": described,
        "tokenizer": tokenizer_id(tokenizer),
    }
    with work_folder(output, identity) as work, Tasks(engine, work / "tasks") as tasks:
        encoded = work / "encoded"
        tasks.run("encode", len(files), _Encode(settings, files, documents, tokenizer, encoded, dtype))
        reports = read_reports(encoded)
        plan: list[tuple[str, int, list[int]]] = []
        for split in SPLITS:
            ranks = [rank for rank, (of, _) in enumerate(files) if of == split]
            total = sum(reports[rank]["tokens"] for rank in ranks)
            if not total:
                raise UserError(f"params.yaml: tokenize.weights leave no document in {split}; raise them")
            plan += [(split, number, ranks) for number in range(math.ceil(total / settings.shard_tokens))]
        shards = work / "shards"
        tasks.run("shuffle", len(plan), _Shuffle(plan, encoded, shards, settings.shard_tokens, dtype))
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


class _Encode(PipelineStep):
    """Task f: encode a file of documents, each ended by <|endoftext|>, and note where each document belongs."""

    name = "encode"
    type = "tokens"

    def __init__(
        self,
        settings: Tokenize,
        files: list[tuple[str, dict[str, Any]]],
        documents: Path,
        tokenizer: Path,
        output: Path,
        dtype: np.dtype,
    ) -> None:
        super().__init__()
        self._settings, self._files, self._documents = settings, files, documents
        self._tokenizer, self._output, self._dtype = tokenizer, output, dtype

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        split, described = self._files[rank]
        encoding = load_tokenizer(self._tokenizer)
        end = np.array([encoding.eot_token], self._dtype).tobytes()
        keys, starts, lengths = array("Q"), array("Q"), array("I")
        sources: dict[str, Counter[str]] = defaultdict(Counter)
        position = 0
        self._output.mkdir(parents=True, exist_ok=True)
        with (self._output / f"{rank:05d}.bin").open("wb") as file:
            for document in read_file(self._documents, described):
                name, source = document["id"], document["source"]
                copies = count_copies(name, self._settings.weights.get(source, 1.0)) if split == "train" else 1
                if not copies:
                    continue
                # Special tokens are text here: nothing that a document says ends it. An array, where a list of Python's
                # integers would take as long as encoding.
                tokens = encoding.encode_to_numpy(document["text"], disallowed_special=())
                file.write(tokens.astype(self._dtype).tobytes() + end)
                length = len(tokens) + 1
                for copy in range(copies):
                    keys.append(document_key(self._settings.shuffle_seed, name, copy))
                    starts.append(position)
                    lengths.append(length)
                position += length
                size = len(document["text"].encode())
                sources[source].update(
                    {
                        "documents": copies,
                        "tokens": copies * length,
                        "bytes": copies * size,
                        "words": copies * document["words"],
                        f"length {length.bit_length() - 1}": copies,
                    }
                )
        table = np.empty(len(keys), ENTRY)
        table["key"], table["start"], table["tokens"] = keys, starts, lengths
        table.sort(order=("key", "start"))
        table.tofile(self._output / f"{rank:05d}.entries")
        buckets = (table["key"] >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)
        histogram = np.zeros(1 << _BUCKET_BITS, np.int64)
        np.add.at(histogram, buckets, table["tokens"])
        histogram.tofile(self._output / f"{rank:05d}.histogram")
        report = {"tokens": int(histogram.sum()), "sources": sources}
        write_report(self._output, rank, report)
        yield from ()


class _Shuffle(PipelineStep):
    """Task s: write shard s of the plan, (split, number of the shard in it, tasks that encoded the split)."""

    name = "shuffle"
    type = "tokens"

    def __init__(
        self, plan: list[tuple[str, int, list[int]]], encoded: Path, output: Path, shard_tokens: int, dtype: np.dtype
    ) -> None:
        super().__init__()
        self._plan, self._encoded, self._output = plan, encoded, output
        self._shard_tokens, self._dtype = shard_tokens, dtype

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        split, number, ranks = self._plan[rank]
        ends = np.cumsum(sum(np.fromfile(self._encoded / f"{of:05d}.histogram", np.int64) for of in ranks))
        begin, end = number * self._shard_tokens, min((number + 1) * self._shard_tokens, int(ends[-1]))
        first, last = int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, end, "left"))
        entries = self._read(ranks, first, last)
        # Positions in the split's stream at which the documents of these buckets end.
        lasts = (int(ends[first - 1]) if first else 0) + np.cumsum(entries["tokens"], dtype=np.int64)
        digest, size = hashlib.sha256(), self._dtype.itemsize
        name = f"{split}_{number:05d}"
        self._output.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            shard = stack.enter_context((self._output / f"{name}.bin").open("wb"))
            # Read, not mapped: a map of all tokens, in an order of chance, would count as this process's memory.
            files = [stack.enter_context((self._encoded / f"{of:05d}.bin").open("rb", buffering=0)) for of in ranks]
            for place in range(int(np.searchsorted(lasts, begin, "right")), len(entries)):
                after = int(lasts[place])
                before = after - int(entries["tokens"][place])
                if before >= end:
                    break
                start, stop = max(before, begin), min(after, end)
                offset = int(entries["start"][place]) + start - before
                piece = os.pread(files[entries["file"][place]].fileno(), (stop - start) * size, offset * size)
                assert len(piece) == (stop - start) * size, "the file is as its entries say"
                shard.write(piece)
                digest.update(piece)
        report = {"file": f"{name}.bin", "tokens": end - begin, "sha256": digest.hexdigest()}
        write_report(self._output, rank, report)
        yield from ()

    def _read(self, ranks: list[int], first: int, last: int) -> np.ndarray:
        """Return the entries of buckets first to last in their global order, each with the number of its file."""
        pieces = []
        low, high = first << (64 - _BUCKET_BITS), (last + 1) << (64 - _BUCKET_BITS)
        for number, of in enumerate(ranks):
            table = read_between(self._encoded / f"{of:05d}.entries", ENTRY, low, high)
            piece = np.empty(len(table), [*ENTRY.descr, ("file", "<i4")])
            for field in ENTRY.names or ():
                piece[field] = table[field]
            piece["file"] = number
            pieces.append(piece)
        entries = np.concatenate(pieces)
        return entries[np.argsort(entries["key"], kind="stable")]
