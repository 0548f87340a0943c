"""The sample that prepare keeps: random, small, the same however the work is divided, and true."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpt.corpus.sampling.display import SampleReader, show
from gpt.corpus.sampling.sample import KEPT, SAMPLE, Sample
from gpt.errors import UserError
from gpt.params.corpus import Prepare
from tests.corpus.test_prepare import SETTINGS, Corpus, prose


def rows(*texts: Any) -> bytes:
    return "".join(json.dumps({"text": text, "score": number % 4}) + "\n" for number, text in enumerate(texts)).encode()


LONG = [f"{prose(40, seed)} naÃ¯ve\x07" for seed in range(90)]
NEW = {
    "malformed": "skip",
    "filters": [{"field": "score", "at_least": 1}],
    "decontaminate": SETTINGS.decontaminate.model_dump() | {"min_characters": 10},
    "deduplicate": SETTINGS.deduplicate.model_dump() | {"minhash": True, "buckets": 14},
}


def prepared(folder: Path, shards: int) -> Corpus:
    corpus = Corpus(folder)
    leak = f"{prose(50, 500)} {LONG[1]} {prose(50, 501)}"  # of a document for test or validation, or else a near copy of one
    leaks = [f"{prose(50, 600 + number)} {text} {prose(50, 700 + number)}" for number, text in enumerate(LONG[1::4])]
    corpus.write(
        {"a.jsonl": rows(*LONG, "\x00\x07", "\x07", LONG[5], LONG[6], LONG[7] + " twice", leak, *leaks) + b"{\n"}
    )
    corpus.write({"b.jsonl": rows("x", "x other", "short one")}, source="zzz")
    corpus.prepare(Prepare.model_validate(SETTINGS.model_dump() | NEW | {"shards": shards}))
    return corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("one"), 1)


def test_what_became_of_every_document_is_counted(corpus: Corpus) -> None:
    """By source and reason, as metrics count them of all sources; what is cut stays, and is counted beside."""
    reader = SampleReader(corpus.output)
    counts = Counter[str]()
    for (_, reason), number in reader.counts.items():
        counts[reason] += number
    metrics = json.loads(corpus.metrics.read_text())
    dropped = {reason: entry["documents"] for reason, entry in metrics["dropped"].items() if entry["documents"]}
    # Records without a text from the beginning are no documents: they are not sampled.
    assert dropped.pop("empty") == counts["empty"]
    assert {reason: counts[reason] for reason in dropped} == dropped
    assert {"score: below 1", "exact_duplicate", "malformed: invalid_json", "malformed: nul_bytes"} <= dropped.keys()
    for split in ("train", "validation", "test"):
        assert counts[split] == metrics[split]["documents"]
    assert counts["cut"] == metrics["cut"]["documents"] > 0
    assert len(reader.table()) == 1 + len(reader.counts)
    for (source, reason), number in reader.counts.items():
        kept = "kept" if reason in ("train", "validation", "test", "cut") else "dropped"
        (line,) = [line for line in reader.table() if line.startswith(source) and f" {reason}  " in f"{line}  "]
        assert kept in line and line.endswith(f" {number}")


def test_the_sample_shows_what_each_step_changed(corpus: Corpus) -> None:
    reader = SampleReader(corpus.output)
    texts = {
        record["id"]: record["text"] for split in ("train", "validation", "test") for record in corpus.records(split)
    }
    kept = reader.choose(1000, 0, kept=True)
    assert len(kept) > 50
    for record in kept:
        if record["reason"] != "cut":
            assert texts[record["name"]].startswith(record["text"]) and record["characters"] == len(
                texts[record["name"]]
            )
        steps = [change["step"] for change in record["changes"]]
        assert steps == (["clean", "cut"] if record["reason"] == "cut" or "-" in record["name"] else steps)
        if record["source"] == "made-up":
            assert steps[0] == "clean", "all of them had a bell and a naÃ¯ve"
            assert record["changes"][0]["before"] != record["changes"][0]["after"]
    (dropped,) = reader.choose(1, 0, reason="score: below 1", source="made-up")
    lines = list(show(dropped))
    assert lines[0].startswith("── made-up · dropped: score: below 1 · made-up/a.jsonl/")
    assert any(line.startswith("- ") and "naÃ¯ve\\u0007" in line for line in lines), "control characters are seen"
    assert any(line.startswith("+ ") and line.endswith("naïve") for line in lines)


@pytest.mark.parametrize("shards", [3])
def test_the_sample_is_the_same_for_any_number_of_shards(corpus: Corpus, tmp_path: Path, shards: int) -> None:
    other = prepared(tmp_path, shards)
    assert (other.output / SAMPLE).read_bytes() == (corpus.output / SAMPLE).read_bytes()


@given(st.integers(1, 5), st.integers(0, 2**32), st.integers(1, 9))
@hypothesis_settings(deadline=None, max_examples=20)
def test_parts_of_a_sample_are_the_sample_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, parts: int, seed: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("sample")
    names = [
        f"{number}{ending}" for number in range(30) for ending in random.Random(seed).sample(["", "-0", "-1", "+1"], 2)
    ]
    whole, merged = Sample(size), Sample(size)
    divided = [Sample(size) for _ in range(parts)]
    for name in sorted(names):
        for sample in (whole, divided[hash(name) % parts]):
            sample.add("web", "train", name, lambda name=name: {"text": name})
    for number, sample in enumerate(divided):
        sample.write(folder / str(number))
        merged.merge(folder / str(number))
    whole.write(folder / "whole")
    merged.write(folder / "merged")
    assert (folder / "merged").read_bytes() == (folder / "whole").read_bytes()
    assert len((folder / "whole").read_text().splitlines()) == 1 + min(size, 60)


def test_a_sample_is_random_and_bounded() -> None:
    sample = Sample()
    for number in range(20_000):
        sample.add("web", "train", f"web/a.jsonl/{number}", dict)
    chosen = [int(name.rpartition("/")[2]) for _, name, _ in sample._chosen["web", "train"]]
    assert len(chosen) == KEPT
    assert sum(chosen) / KEPT == pytest.approx(10_000, abs=3000), "not the first ones"
    for number in range(3000):
        sample.add("web", f"reason {number}", "x", dict)
    assert len(sample.counts) <= 1001 and sum(sample.counts.values()) == 23_000


def test_another_seed_shows_others_and_the_same_seed_the_same(corpus: Corpus) -> None:
    reader = SampleReader(corpus.output)
    names = [[record["name"] for record in reader.choose(8, seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    kinds = {(record["source"], record["reason"]) for record in reader.choose(len(reader.counts), 3)}
    assert len(kinds) == len({(record["source"], record["reason"]) for record in reader.records}), "of each in turn"
    assert all(record["source"] == "zzz" for record in reader.choose(9, 0, source="zzz"))
    assert {record["reason"] for record in reader.choose(99, 0, kept=True)} <= {"train", "validation", "test", "cut"}
    assert "train" not in {record["reason"] for record in reader.choose(99, 0, kept=False)}


def test_a_name_that_no_document_has_is_told_with_those_that_are(corpus: Corpus, tmp_path: Path) -> None:
    reader = SampleReader(corpus.output)
    with pytest.raises(UserError, match="--source web: no document has it; known are made-up, zzz"):
        reader.choose(1, 0, source="web")
    with pytest.raises(UserError, match="--reason short: no document has it; known are contaminated, cut, "):
        reader.choose(1, 0, reason="short")
    with pytest.raises(UserError, match=r"sample\.jsonl: not found; run `gpt prepare` first"):
        SampleReader(tmp_path)
