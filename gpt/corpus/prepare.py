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
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import zstandard
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from gpt.corpus.boilerplate import ChooseCommon, CountDocuments, ListUnprotected
from gpt.corpus.cleaning import Clean
from gpt.corpus.decontamination import BENCHMARKS, HELD_OUT, Decontaminate, Judges
from gpt.corpus.deduplication.choice import EXACT, ChooseRemoved, copy_numbers, removed_documents
from gpt.corpus.deduplication.pairs import FindPairs
from gpt.corpus.deduplication.signatures import Sign, bucket_names
from gpt.corpus.documents import Places
from gpt.corpus.filtering.needs import filter_files
from gpt.corpus.filtering.step import Filtered
from gpt.corpus.index import IndexTexts, MergeIndex
from gpt.corpus.reading.files import hash_sources, list_files
from gpt.corpus.reading.presence import check_fields
from gpt.corpus.reading.readers import ReadSources
from gpt.corpus.sampling.sample import KEPT, SAMPLE, Sample, beginning, changes
from gpt.corpus.splits import SPLITS, split_text
from gpt.corpus.summary import check_splits, describe_inputs, summarise_corpus
from gpt.files import atomic_folder, read_json, sha256_file, write_json
from gpt.params.corpus import Prepare
from gpt.params.types import flatten
from gpt.sources.benchmarks import check_benchmarks
from gpt.tasks.executors import Tasks
from gpt.tasks.reports import add_up, link_files, read_reports
from gpt.tasks.steps import WritingStep
from gpt.tasks.work import work_folder

_PRIORITY = {"test": 0, "validation": 1, "train": 2}  # whose copy of a text stays
_DUPLICATES = ("exact_duplicate", "near_duplicate")
_EXAMPLES = 5  # of what a task removed, for the report
_CARRIED = 4 * KEPT  # documents of a shard and source of which the steps are told: some of them go later


def prepare(
    settings: Prepare, raw: Path, benchmarks: Path, names: tuple[str, ...], output: Path, metrics: Path
) -> dict[str, Any]:
    """Write documents, a JSON object a line (id, source, text, words, metadata), to `output/<split>_<shard>.jsonl`.

    `names` are the benchmarks whose items no training document may hold. What was done is counted in `metrics`, and told in
    full, with sources, settings and examples, in `output/report.json`; `output/sample.jsonl` shows some of what stays and goes.
    Raises `UserError` for what cannot be read or a split that would be empty; then `output` stays as it was, and the next run
    goes on with what is done.
    """
    sources = list(dict.fromkeys(source for source, *_ in list_files(raw)))
    check_benchmarks(names, benchmarks)
    paths = [benchmarks / f"{name}.jsonl" for name in names]
    decide = flatten(settings.model_dump(mode="json", exclude={"engine"}), "prepare")
    decide |= {"evaluate.benchmarks": list(names), "fetch.sources": sources}  # of duplicates the first source's stays
    inputs = hash_sources(raw) | filter_files(settings) | {path.as_posix(): sha256_file(path) for path in paths}
    with work_folder(output, "prepare", decide, inputs) as work, Tasks(settings.engine, work / "tasks") as tasks:
        without_field = _deduplicate(settings, raw, sources, work, tasks)
        judges = _decontaminate(settings, dict(zip(names, paths, strict=True)), work, tasks)
        counts, report = summarise_corpus(judges, work, settings.decontaminate.ngram)
        counts |= {
            "near_copies_held_out": read_json(work / "signatures" / "near_copies.json", "run `gpt prepare` again")
        }
        if without_field:
            counts["files_without_field"] = without_field
        check_splits(settings, counts, report["matches"])
        with atomic_folder(output) as folder:
            link_files(sorted((work / "documents").iterdir()), folder)
            write_json(folder / "documents.json", _describe(work, counts))
            _write_samples(work / "samples", folder / SAMPLE)
            write_json(folder / "report.json", describe_inputs(settings, raw, benchmarks, names) | report)
            write_json(metrics, counts)  # in here: if it cannot be written, the old documents stay
    return counts


def _deduplicate(settings: Prepare, raw: Path, sources: list[str], work: Path, tasks: Tasks) -> dict[str, Any]:
    """Read, clean and filter into `work/read`, and find which documents go; return which files have not the fields asked for."""
    signatures = work / "signatures"
    reader, clean, filtered = ReadSources(settings, raw), Clean(settings), Filtered(settings)
    comparison = settings.comparison()
    tasks.run(
        "read",
        settings.shards,
        reader,
        clean,
        filtered,
        _Identify(settings, sources),
        Sign(comparison, signatures),
        _WriteShard(work, {"read": reader, "clean": clean, "filters": filtered}),
    )
    without_field = check_fields(settings, add_up(read_reports(work / "read"))["read"]["fields"])
    buckets, memory_gb = bucket_names(comparison), settings.engine.memory_gb
    tasks.run("pairs", len(buckets), FindPairs(buckets, signatures, memory_gb))
    tasks.run("clusters", 1, ChooseRemoved(comparison, signatures, memory_gb))
    return without_field


def _decontaminate(settings: Prepare, benchmarks: dict[str, Path], work: Path, tasks: Tasks) -> list[Judges]:
    """Write the documents that stay to `work/documents`; return whose n-grams the training documents were searched for."""
    read, documents, common, ngram = work / "read", work / "documents", work / "common", settings.decontaminate.ngram
    tasks.run(
        "held-out",
        settings.shards,
        _ReadShard(settings, read, work, held_out=True),
        _WriteDocuments(documents, work, SPLITS[1:]),
    )
    shards = [
        (split, documents / f"{split}_{shard:05d}.jsonl") for shard in range(settings.shards) for split in SPLITS[1:]
    ]
    judges = [
        Judges(kind, owners, work / "index" / kind)
        for kind, owners in ((BENCHMARKS, [*benchmarks.items()]), (HELD_OUT, shards))
        if owners
    ]
    for each in judges:
        tasks.run(f"n-grams-{each.kind}", len(each.owners), IndexTexts(each.owners, each.index, ngram))
        tasks.run(f"index-{each.kind}", 1, MergeIndex(each.index))
    training = _ReadShard(settings, read, work, held_out=False)
    indexes = [each.index for each in judges]
    tasks.run("shared", settings.shards, training, CountDocuments(indexes, ngram, common))
    tasks.run("common", 1, ChooseCommon(settings.decontaminate.max_documents, common))
    tasks.run("index-common", 1, MergeIndex(common))
    for each in judges:
        unprotected = ListUnprotected(each.owners, each.index, common, ngram, work / "unprotected" / each.kind)
        tasks.run(f"unprotected-{each.kind}", len(each.owners), unprotected)
    tasks.run(
        "decontaminate",
        settings.shards,
        training,
        Decontaminate(settings.decontaminate, judges, common, work),
        _WriteDocuments(documents, work, SPLITS[:1]),
    )
    return judges


class _Identify(PipelineStep):
    """Give each document, or each part of one, its digest, split and source, by number, and its digest as its name."""

    name = "identify"
    type = "corpus"

    def __init__(self, settings: Prepare, sources: list[str]) -> None:
        super().__init__()
        self._settings, self._sources = settings, {name: number for number, name in enumerate(sources)}
        self._given = {name: settings.of(name).split for name in sources}
        self._carried = Sample(_CARRIED)

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data or ():
            source = document.metadata["source"]
            for split, text, digest in split_text(document.text, self._settings, self._given[source]):
                record = {"source": source, "split": split, "metadata": document.metadata["metadata"]}
                if self._carried.would_take(source, split, digest.hex()):
                    self._carried.add(source, split, digest.hex(), dict)
                    record["changes"] = changes(document)
                metadata = {
                    "digest": digest,
                    "split": _PRIORITY[split],
                    "source": self._sources[source],
                    "record": record,
                }
                yield Document(text=text, id=digest.hex(), metadata=metadata)


class _WriteShard(WritingStep):
    """Write a shard of identified documents, compressed, and what the steps before counted."""

    name = "write"

    def __init__(self, work: Path, steps: dict[str, Any]) -> None:
        super().__init__()
        self._folder, self._samples, self._steps = work / "read", work / "samples" / "read", steps

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with zstandard.open(
            self.new_file(self._folder / f"{rank:05d}.jsonl.zst"), "wb", cctx=zstandard.ZstdCompressor(level=1)
        ) as file:
            for document in data or ():
                record = document.metadata["record"] | {"words": document.metadata["words"], "text": document.text}
                file.write(orjson.dumps({"id": document.id} | record) + b"\n")
        self.write_report(self._folder, rank, {name: step.report() for name, step in self._steps.items()})
        for name, step in self._steps.items():
            step.sample.write(self.new_file(self._samples / f"{name}_{rank:05d}.jsonl"))
        yield from ()


class _ReadShard(WritingStep):
    """Read a shard's held-out documents, or those for training, without the duplicates, which are counted."""

    name = "read"

    def __init__(self, settings: Prepare, folder: Path, work: Path, held_out: bool) -> None:
        super().__init__()
        self._folder, self._work, self._held_out = folder, work, held_out
        self._deduplicate = settings.deduplicate
        self._by_source = {source: settings.of(source).deduplicate for source in settings.by_source}

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        signatures = self._work / "signatures"
        removed, copies = removed_documents(signatures, rank), copy_numbers(signatures, rank).tolist()
        dropped: dict[str, dict[str, Any]] = {
            reason: {"documents": 0, "bytes": 0, "examples": []} for reason in _DUPLICATES
        }
        sample = Sample()
        # zstandard's own reader gives no lines.
        with io.BufferedReader(zstandard.open(self._folder / f"{rank:05d}.jsonl.zst", "rb"), 1 << 20) as file:
            for line, gone, copy in zip(file, removed, copies, strict=True):
                record = orjson.loads(line)
                if (record["split"] != "train") != self._held_out:
                    continue
                own = self._by_source.get(record["source"], self._deduplicate)
                is_exact, is_near = own.exact and gone == EXACT, own.minhash and gone  # a copy is near too
                if is_exact or is_near:
                    reason = _DUPLICATES[0 if is_exact else 1]
                    entry = dropped[reason]
                    entry["documents"] += 1
                    entry["bytes"] += len(record["text"].encode())
                    if len(entry["examples"]) < _EXAMPLES:
                        entry["examples"].append({"id": record["id"], "text": record["text"][:200]})
                    sample.add(record["source"], reason, record["id"], partial(_describe_record, record))
                    continue
                # Copies that stay have names of their own: they would stand side by side among the tokens.
                name = record.pop("id") + (f"+{copy}" if copy else "")
                yield Document(text=record.pop("text"), id=name, metadata=record)
        name = "duplicates_held_out" if self._held_out else "duplicates_train"
        sample.write(self.new_file(self._work / "samples" / name / f"{rank:05d}.jsonl"))
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
        places, sample = Places(), Sample()
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
                sample.add(source, split, document.id, partial(_describe_record, document.metadata, document.text))
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
        sample.write(self.new_file(self._work / "samples" / "-".join(self._splits) / f"{rank:05d}.jsonl"))
        for split, path in paths.items():
            self.write_report(self._work / "written" / split, rank, stats[split])
            described = {"file": path.name, "bytes": path.stat().st_size, "sha256": digests[split].hexdigest()}
            self.write_report(self._work / "files" / split, rank, described)
        yield from ()


def _describe_record(record: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    return beginning(record["text"] if text is None else text) | {"changes": record.get("changes", [])}


def _write_samples(samples: Path, path: Path) -> None:
    """Write what tasks kept for people to look at as one sample."""
    whole = Sample()
    for part in sorted(samples.glob("*/*.jsonl")):
        whole.merge(part)
    whole.write(path)


def _describe(work: Path, counts: dict[str, Any]) -> dict[str, Any]:
    """Return what documents.json says: of each split its counts, files and one hash of them all."""
    return {split: counts[split] | {"files": read_reports(work / "files" / split)} for split in SPLITS}
