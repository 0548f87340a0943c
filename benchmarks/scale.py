"""What the pipeline reads, opens and holds as data grow eightfold: `python -m benchmarks scale`.

Counted, not timed: bytes that the system was asked for (/proc/self/io), files opened (Python's audit events), memory allocated
(tracemalloc). What must not grow with the data has the same figure in both columns; what grows with them, eight times it.
"""

import hashlib
import json
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil

from gpt.corpus.arrays import read_between
from gpt.corpus.deduplication.choice import ChooseRemoved
from gpt.corpus.deduplication.numbering import TRAIN, class_of
from gpt.corpus.deduplication.pairs import FindPairs
from gpt.corpus.deduplication.signatures import EXACT_BUCKET, bucket_names, signature_type
from gpt.corpus.documents import Places, sample_texts
from gpt.corpus.index import IndexTexts, MergeIndex, find_owners
from gpt.corpus.words import ngram_hashes, split_words
from gpt.files import write_json
from gpt.params.corpus import Deduplicate
from gpt.tokens import verification
from gpt.tokens.tokenize import ENTRY
from gpt.tokens.verification import verify_shards

_TIMES = 8
_SAMPLE_BYTES = 500_000
_MEMORY_GB = 0.02
_SHARD_DOCUMENTS = 25_000
_SETTINGS = Deduplicate(exact=True, minhash=True, ngram=5, buckets=2, hashes=8, seed=1)
_SHARD_BYTES = 1 << 20

_files_opened = 0


def measure() -> list[str]:
    """Return a markdown table."""
    sys.addaudithook(_note_open)
    rows: list[tuple[str, str, Callable[[Path, int], float]]] = [
        ("training's first start: 8 MiB of shards, of which 1 MiB is for the test", "MB read", verify),
        ("its further starts", "MB read", verify_again),
        ("a tokenizer's sample of 0.5 MB, of 8 MB", "MB read", sample),
        ("the documents of 1 % of a file of 25,000, to fill a token shard", "kB read", find_documents),
        ("owners of one n-gram, among 32 files of held-out documents", "files opened", look_up_owners),
        (f"pairs of 100,000 documents, with {_MEMORY_GB} GiB", "peak MB", pairs),
        (f"clusters of these, with {_MEMORY_GB} GiB", "peak MB", clusters),
    ]
    lines = [f"| | | once | {_TIMES} times as much |", "| --- | --- | ---: | ---: |"]
    for title, unit, count in rows:
        figures = []
        for times in (1, _TIMES):
            with tempfile.TemporaryDirectory() as folder:
                figures.append(count(Path(folder), times))
        lines.append(f"| {title} | {unit} | {figures[0]:,.1f} | {figures[1]:,.1f} |")
    return lines


def verify(folder: Path, times: int) -> float:
    """Return the MB that a first start reads."""
    _write_shards(folder, times)
    return verify_shards(folder / "tokens", ("train", "validation")) / 1e6


def verify_again(folder: Path, times: int) -> float:
    """Return the MB that a start after another one reads."""
    _write_shards(folder, times)
    verify_shards(folder / "tokens", ("train", "validation"))
    return verify_shards(folder / "tokens", ("train", "validation")) / 1e6


def _write_shards(folder: Path, times: int) -> None:
    """Write 6 shards of train, one of validation, and one of test, which count as written long ago."""
    splits: dict[str, Any] = {}
    for split, count in (("train", 6), ("validation", 1), ("test", 1)):
        shards = []
        for number in range(count * times):
            path = folder / "tokens" / f"{split}_{number:05d}.bin"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(hashlib.shake_128(path.name.encode()).digest(_SHARD_BYTES))
            shards.append(
                {
                    "file": path.name,
                    "tokens": _SHARD_BYTES // 2,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
        splits[split] = {"shards": shards}
    verification._RESOLUTION_NS = -(10**18)  # what was written a moment ago would not be noted
    write_json(
        folder / "tokens/index.json",
        {"dtype": "<u2", "vocab_size": 9, "end_of_text": 8, "tokenizer_id": "", "splits": splits},
    )


def sample(folder: Path, times: int) -> float:
    """Return the MB that a tokenizer's sample of half a megabyte reads."""
    described = {split: {"documents": 0, "bytes": 0, "files": []} for split in ("train", "validation", "test")}
    train: Any = described["train"]
    for number in range(4 * times):
        path, places = folder / f"train_{number:05d}.jsonl", Places()
        with path.open("wb") as file:
            for document in range(1000):
                text = hashlib.shake_128(f"{number} {document}".encode()).digest(1000).hex()
                line = orjson.dumps({"id": f"{number}-{document}", "source": "a", "text": text, "words": 1}) + b"\n"
                file.write(line)
                places.add(f"{number}-{document}", line)
                train["bytes"] += len(text)
        places.write(path.with_suffix(".places"))
        train["documents"] += 1000
        train["files"].append(
            {"file": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        )
    write_json(folder / "documents.json", described)
    return _megabytes_read(lambda: sum(map(len, sample_texts(folder, "train", _SAMPLE_BYTES))))


def find_documents(folder: Path, times: int) -> float:
    """Return the kB that a token shard's task reads to find its documents, those with keys in a range, in one file."""
    table = np.zeros(_SHARD_DOCUMENTS * times, ENTRY)
    table["key"] = np.sort(np.random.default_rng(0).integers(0, 2**64, len(table), np.uint64))
    table.tofile(folder / "entries")
    width = 2**64 // 100 // times
    return 1000 * _megabytes_read(lambda: read_between(folder / "entries", ENTRY, 2**63, 2**63 + width))


def look_up_owners(folder: Path, times: int) -> float:
    """Return how many files are opened to say whose an n-gram is."""
    owners = [("test", folder / f"{number}.jsonl") for number in range(32 * times)]
    for number, (_, path) in enumerate(owners):
        path.write_text(
            json.dumps({"id": str(number), "text": f"to be or not to be {number}"}) + "\n", encoding="utf-8"
        )
    for task in range(len(owners)):
        list(IndexTexts(owners, folder / "index", 3).run(rank=task))
    list(MergeIndex(folder / "index").run())
    before = _files_opened
    (found,) = find_owners(folder / "index", [ngram_hashes(split_words("to be or"), 3)])
    assert len(found) == len(owners)
    return _files_opened - before


def pairs(folder: Path, times: int) -> float:
    """Return the peak of memory, in MB, of the task that finds the pairs of a bucket."""
    _write_signatures(folder, times)
    return _peak(lambda: list(FindPairs(bucket_names(_SETTINGS), folder, _MEMORY_GB).run(rank=1)))


def clusters(folder: Path, times: int) -> float:
    """Return the peak of memory, in MB, of the task that chooses what goes."""
    _write_signatures(folder, times)
    for task in range(len(bucket_names(_SETTINGS))):
        list(FindPairs(bucket_names(_SETTINGS), folder, _MEMORY_GB).run(rank=task))
    return _peak(lambda: list(ChooseRemoved(_SETTINGS, folder, _MEMORY_GB).run()))


def _write_signatures(folder: Path, times: int) -> None:
    """Write what `Sign` does for shards of documents, of which two have the same signature on average."""
    numbers = np.random.default_rng(0)
    shards = 4 * times
    for shard in range(shards):
        files: dict[str, np.ndarray] = {
            "positions": np.arange(_SHARD_DOCUMENTS, dtype="<u4"),
            "digests": numbers.integers(0, 2**63, _SHARD_DOCUMENTS).astype("<u8"),
        }
        for bucket in bucket_names(_SETTINGS):
            records = np.zeros(_SHARD_DOCUMENTS, signature_type(bucket))
            records["document"] = np.arange(_SHARD_DOCUMENTS)
            most = 2**63 if bucket == EXACT_BUCKET else _SHARD_DOCUMENTS * shards // 2
            records["signature"] = numbers.integers(0, most, _SHARD_DOCUMENTS)
            files[bucket] = records[np.argsort(records["signature"])]
        for name, values in files.items():
            (folder / name).mkdir(exist_ok=True)
            values.tofile(folder / name / f"{shard:05d}")
        (folder / "numbers").mkdir(exist_ok=True)
        (folder / "numbers" / f"{shard:05d}.json").write_text(json.dumps({str(class_of(TRAIN, 0)): _SHARD_DOCUMENTS}))


def _note_open(event: str, _arguments: object) -> None:
    global _files_opened
    _files_opened += event == "open"


def _megabytes_read(work: Callable[[], object]) -> float:
    process: Any = psutil.Process(os.getpid())
    before = process.io_counters().read_chars
    work()
    return (process.io_counters().read_chars - before) / 1e6


def _peak(work: Callable[[], object]) -> float:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6
