"""Raw files to documents: read, cleaned, filtered, each text once, split by its own hash, clean of what judges the model.

The work is done in `prepare.shards` pieces, by steps of files and processes that share nothing else: what comes out does
not depend on where, in which order or how often they ran. A document's split depends on its text alone, and no near copy takes
a held-out one's place, so adding data moves no document out of test, nor from train into it.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from gpt.corpus.cleaning import Clean
from gpt.corpus.decontamination import Decontaminate
from gpt.corpus.deduplication.choice import EXACT, ChooseRemoved, copy_numbers, removed_documents
from gpt.corpus.deduplication.pairs import FindPairs
from gpt.corpus.deduplication.signatures import Sign, bucket_names
from gpt.corpus.documents import Places
from gpt.corpus.filters import Filtered, build_filters
from gpt.corpus.index import IndexTexts, MergeIndex
from gpt.corpus.reading.readers import ReadSources, hash_sources, list_files
from gpt.corpus.splits import SPLITS, choose_split
from gpt.corpus.summary import describe_inputs, summarise_corpus
from gpt.errors import UserError
from gpt.files import atomic_folder, read_json, sha256_file, write_json
from gpt.params.corpus import Prepare
from gpt.params.types import flatten
from gpt.sources.benchmarks import check_benchmarks
from gpt.tasks.executors import Tasks
from gpt.tasks.reports import link_files, read_reports
from gpt.tasks.steps import WritingStep
from gpt.tasks.work import work_folder

_PRIORITY = {"test": 0, "validation": 1, "train": 2}  # whose copy of a text stays
_DUPLICATES = ("exact_duplicate", "near_duplicate")
_EXAMPLES = 5  # of what a task removed, for the report


def prepare(
    settings: Prepare, raw: Path, benchmarks: Path, names: tuple[str, ...], output: Path, metrics: Path
) -> dict[str, Any]:
    """Write documents, a JSON object a line (id, source, text, words, metadata), to `output/<split>_<shard>.jsonl`.

    `names` are the benchmarks whose items no training document may hold. What was done is counted in `metrics`, and told in
    full, with sources, settings and examples, in `output/report.json`. Raises `UserError` for what cannot be read or a split
    that would be empty; then `output` stays as it was, and the next run goes on with what is done.
    """
    sources = list(dict.fromkeys(source for source, *_ in list_files(raw)))
    check_benchmarks(names, benchmarks)
    paths = [benchmarks / f"{name}.jsonl" for name in names]
    decide = flatten(settings.model_dump(mode="json", exclude={"engine"}), "prepare")
    decide |= {"evaluate.benchmarks": list(names), "fetch.sources": sources}  # of duplicates the first source's stays
    inputs = hash_sources(raw) | {path.as_posix(): sha256_file(path) for path in paths}
    with work_folder(output, "prepare", decide, inputs) as work, Tasks(settings.engine, work / "tasks") as tasks:
        _deduplicate(settings, raw, sources, work, tasks)
        owners = _decontaminate(settings, dict(zip(names, paths, strict=True)), work, tasks)
        counts, report = summarise_corpus(settings, owners, paths, work)
        counts |= {
            "near_copies_held_out": read_json(work / "signatures" / "near_copies.json", "run `gpt prepare` again")
        }
        _check_splits(counts)
        with atomic_folder(output) as folder:
            link_files(sorted((work / "documents").iterdir()), folder)
            write_json(folder / "documents.json", _describe(work, counts))
            write_json(folder / "report.json", describe_inputs(settings, raw, benchmarks, names) | report)
            write_json(metrics, counts)  # in here: if it cannot be written, the old documents stay
    return counts


def _deduplicate(settings: Prepare, raw: Path, sources: list[str], work: Path, tasks: Tasks) -> None:
    """Read, clean and filter into `work/read`, and find which documents go."""
    signatures = work / "signatures"
    reader, clean = ReadSources(settings, raw), Clean(settings.clean)
    filtered = Filtered(build_filters(settings.filters))
    tasks.run(
        "read",
        settings.shards,
        reader,
        clean,
        filtered,
        _Identify(settings, sources),
        Sign(settings.deduplicate, signatures),
        _WriteShard(work / "read", {"read": reader, "clean": clean, "filters": filtered}),
    )
    buckets, memory_gb = bucket_names(settings.deduplicate), settings.engine.memory_gb
    tasks.run("pairs", len(buckets), FindPairs(buckets, signatures, memory_gb))
    tasks.run("clusters", 1, ChooseRemoved(settings.deduplicate, signatures, memory_gb))


def _decontaminate(settings: Prepare, benchmarks: dict[str, Path], work: Path, tasks: Tasks) -> list[tuple[str, Path]]:
    """Write the documents that stay to `work/documents`; return whose n-grams the training documents were searched for."""
    read, documents, index = work / "read", work / "documents", work / "index"
    tasks.run(
        "held-out", settings.shards, _ReadShard(read, work, held_out=True), _WriteDocuments(documents, work, SPLITS[1:])
    )
    shards = [
        (split, documents / f"{split}_{shard:05d}.jsonl") for shard in range(settings.shards) for split in SPLITS[1:]
    ]
    owners = [*benchmarks.items(), *shards]
    tasks.run("n-grams", len(owners), IndexTexts(owners, index, settings.decontaminate.ngram))
    tasks.run("index", 1, MergeIndex(index))
    tasks.run(
        "decontaminate",
        settings.shards,
        _ReadShard(read, work, held_out=False),
        Decontaminate(settings.decontaminate, index, work / "matches"),
        _WriteDocuments(documents, work, SPLITS[:1]),
    )
    return owners


class _Identify(PipelineStep):
    """Give each document its digest, split and source, by number, and its digest as its name."""

    name = "identify"
    type = "corpus"

    def __init__(self, settings: Prepare, sources: list[str]) -> None:
        super().__init__()
        self._settings, self._sources = settings, {name: number for number, name in enumerate(sources)}

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data or ():
            digest = hashlib.sha256(document.text.encode()).digest()
            split = choose_split(digest, self._settings)
            source = document.metadata["source"]
            document.id = digest.hex()
            document.metadata = {
                "digest": digest,
                "split": _PRIORITY[split],
                "source": self._sources[source],
                "record": {"source": source, "split": split, "metadata": document.metadata["metadata"]},
            }
            yield document


class _WriteShard(WritingStep):
    """Write a shard of identified documents, compressed, and what the steps before counted."""

    name = "write"

    def __init__(self, folder: Path, steps: dict[str, Any]) -> None:
        super().__init__()
        self._folder, self._steps = folder, steps

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with zstandard.open(
            self.new_file(self._folder / f"{rank:05d}.jsonl.zst"), "wb", cctx=zstandard.ZstdCompressor(level=1)
        ) as file:
            for document in data or ():
                record = document.metadata["record"] | {"words": document.metadata["words"], "text": document.text}
                file.write(orjson.dumps({"id": document.id} | record) + b"\n")
        self.write_report(self._folder, rank, {name: step.report() for name, step in self._steps.items()})
        yield from ()


class _ReadShard(WritingStep):
    """Read a shard's held-out documents, or those for training, without the duplicates, which are counted."""

    name = "read"

    def __init__(self, folder: Path, work: Path, held_out: bool) -> None:
        super().__init__()
        self._folder, self._work, self._held_out = folder, work, held_out

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        signatures = self._work / "signatures"
        removed, copies = removed_documents(signatures, rank), copy_numbers(signatures, rank).tolist()
        dropped: dict[str, dict[str, Any]] = {
            reason: {"documents": 0, "bytes": 0, "examples": []} for reason in _DUPLICATES
        }
        # zstandard's own reader gives no lines.
        with io.BufferedReader(zstandard.open(self._folder / f"{rank:05d}.jsonl.zst", "rb"), 1 << 20) as file:
            for line, gone, copy in zip(file, removed, copies, strict=True):
                record = orjson.loads(line)
                if (record["split"] != "train") != self._held_out:
                    continue
                if gone:
                    entry = dropped[_DUPLICATES[0 if gone == EXACT else 1]]
                    entry["documents"] += 1
                    entry["bytes"] += len(record["text"].encode())
                    if len(entry["examples"]) < _EXAMPLES:
                        entry["examples"].append({"id": record["id"], "text": record["text"][:200]})
                    continue
                # Copies that stay have names of their own: they would stand side by side among the tokens.
                name = record.pop("id") + (f"+{copy}" if copy else "")
                yield Document(text=record.pop("text"), id=name, metadata=record)
        name = "duplicates_held_out" if self._held_out else "duplicates_train"
        self.write_report(self._work / name, rank, dropped)


class _WriteDocuments(WritingStep):
    """Write documents to the files of their splits, and what they are."""

    name = "write"

    def __init__(self, folder: Path, work: Path, splits: tuple[str, ...]) -> None:
        super().__init__()
        self._folder, self._work, self._splits = folder, work, splits

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        stats: dict[str, dict[str, Counter[str]]] = {split: defaultdict(Counter) for split in self._splits}
        paths = {split: self.new_file(self._folder / f"{split}_{rank:05d}.jsonl") for split in self._splits}
        digests = {split: hashlib.sha256() for split in self._splits}
        places = Places()
        with ExitStack() as stack:
            files = {split: stack.enter_context(path.open("wb")) for split, path in paths.items()}
            for document in data or ():
                split, source, words = (document.metadata[key] for key in ("split", "source", "words"))
                record = {"id": document.id, "source": source, "text": document.text, "words": words}
                if metadata := document.metadata["metadata"]:
                    record["metadata"] = metadata
                line = orjson.dumps(record) + b"\n"
                files[split].write(line)
                digests[split].update(line)
                if split == "train":  # of which a tokenizer reads a sample
                    places.add(document.id, line)
                encoded = document.text.encode()
                size = len(encoded)
                stats[split][source].update(
                    {"documents": 1, "bytes": size, "characters": len(document.text), "words": words}
                )
                # A sum does not depend on the order, so the same documents have the same hash in any number of files.
                stats[split][source]["hash"] += int.from_bytes(hashlib.sha256(encoded).digest(), "big")
                stats[split][source][f"length {size.bit_length() - 1}"] += 1
        if "train" in paths:
            places.write(self.new_file(paths["train"].with_suffix(".places")))
        for split, path in paths.items():
            self.write_report(self._work / "written" / split, rank, stats[split])
            described = {"file": path.name, "bytes": path.stat().st_size, "sha256": digests[split].hexdigest()}
            self.write_report(self._work / "files" / split, rank, described)
        yield from ()


def _describe(work: Path, counts: dict[str, Any]) -> dict[str, Any]:
    """Return what documents.json says: of each split its counts, files and one hash of them all."""
    return {split: counts[split] | {"files": read_reports(work / "files" / split)} for split in SPLITS}


def _check_splits(counts: dict[str, Any]) -> None:
    total = sum(counts[split]["documents"] for split in SPLITS)
    if not counts["read"]["documents"]:
        raise UserError("data/raw: holds no document with text; check fetch.sources in params.yaml")
    if not total:
        reasons = ", ".join(
            f"{reason} {entry['documents']}" for reason, entry in counts["dropped"].items() if entry["documents"]
        )
        raise UserError(
            f"params.yaml: prepare drops all {counts['read']['documents']} documents ({reasons}); change what drops them"
        )
    for split in SPLITS:
        if not counts[split]["documents"]:
            raise UserError(
                f"params.yaml: prepare: none of {total} documents falls into {split};"
                " change prepare.split_seed or the fractions, or add documents"
            )
