import hashlib
import json
import math
import random
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.corpus.documents import read_documents, sample_texts
from gpt.corpus.prepare import prepare
from gpt.corpus.splits import SPLITS, choose_split
from gpt.errors import UserError
from gpt.files import read_json, sha256_tree, write_json
from gpt.params.corpus import Prepare
from gpt.params.project import load_params
from gpt.params.tokens import Tokenize, Tokenizer
from gpt.tokens.shards import TokenReader
from gpt.tokens.tokenize import tokenize
from gpt.tokens.tokenizer import build_tokenizer
from tests import ROOT
from tests.corpus import readmes
from tests.tasks.killed import run_and_kill
from tests.tasks.power import Disk

SHARED = load_params(ROOT / "params.yaml").prepare
ENGINE = SHARED.engine.model_copy(update={"workers": 1})
ALONE = {"exact": True, "minhash": False, "ngram": 5, "buckets": 2, "hashes": 8, "seed": 1}
SETTINGS = SHARED.model_copy(
    update={
        "engine": ENGINE,
        "shards": 2,
        "validation_fraction": 0.3,
        "test_fraction": 0.3,
        "split_seed": 0,
        "deduplicate": SHARED.deduplicate.model_validate(ALONE),
    }
)
MANY = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(60)).encode()


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def prose(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices([f"word{number}" for number in range(2000)], k=words))


class Corpus:
    """A data/raw, a data/benchmarks and what `prepare` makes of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.raw, self.benchmarks = root, root / "raw", root / "benchmarks"
        self.output, self.metrics = root / "documents", root / "metrics" / "prepare.json"
        self.benchmarks.mkdir(parents=True)
        write_json(self.benchmarks / "benchmarks.json", {})

    def write(self, files: dict[str, bytes], source: str = "made-up") -> None:
        for name, data in files.items():
            path = self.raw / source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        listing = [
            {"name": folder.name, "files": {path.relative_to(folder).as_posix(): {} for path in folder.rglob("*.*")}}
            for folder in sorted(self.raw.iterdir())
            if folder.is_dir()
        ]
        write_json(self.raw / "sources.json", listing)

    def write_benchmark(self, name: str, *texts: str) -> None:
        lines = (json.dumps({"id": f"{name}/{number}", "texts": [text]}) for number, text in enumerate(texts))
        (self.benchmarks / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        write_json(self.benchmarks / "benchmarks.json", {name: {}})

    def prepare(self, settings: Prepare = SETTINGS, *names: str) -> dict[str, Any]:
        return prepare(settings, self.raw, self.benchmarks, names, self.output, self.metrics)

    def records(self, split: str) -> list[dict[str, Any]]:
        return list(read_documents(self.output, split))

    def splits(self) -> dict[str, list[str]]:
        return {split: [record["text"] for record in self.records(split)] for split in SPLITS}

    def texts(self) -> list[str]:
        return [text for texts in self.splits().values() for text in texts]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def test_files_of_all_kinds_become_documents(corpus: Corpus) -> None:
    corpus.write({"a.txt": b"whole file\nof two lines\n", "deep/b.md": "# naïve".encode(), "c.jsonl": MANY})
    counts = corpus.prepare()
    expected = ["whole file\nof two lines\n", "# naïve", *(f"document {number}" for number in range(60))]
    assert Counter(corpus.texts()) == Counter(expected)
    size = sum(len(text.encode()) for text in expected)
    assert counts["read"]["by_source"] == {"made-up": {"documents": 62, "bytes": size}}


def test_a_document_knows_its_source_its_words_and_is_known_by_its_hash(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY}, source="first")
    corpus.write({"a.jsonl": jsonl("of the second")}, source="second")
    corpus.prepare()
    records = [record for split in SPLITS for record in corpus.records(split)]
    (found,) = [record for record in records if record["source"] == "second"]
    assert (found["text"], found["words"]) == ("of the second", 3)
    assert len({record["id"] for record in records}) == 61


def test_mapped_metadata_stays_with_the_document(corpus: Corpus) -> None:
    record = {"body": {"text": "hello"}, "url": "x", "nr": 7, "unmapped": 1}
    corpus.write({"a.jsonl": MANY}, source="first")
    corpus.write({"a.jsonl": json.dumps(record).encode()}, source="second")
    mapping = {"text_field": "body.text", "id_field": "nr", "metadata_fields": ["url"]}
    corpus.prepare(SETTINGS.model_copy(update={"by_source": {"second": {"read": mapping}}}))
    (found,) = [record for split in SPLITS for record in corpus.records(split) if record["source"] == "second"]
    assert (found["text"], found["metadata"]) == ("hello", {"url": "x", "id": 7})


TEXT = st.characters(exclude_categories=["Cs", "Cc"])


@given(st.lists(st.text(TEXT, max_size=5), min_size=1, max_size=12))
@settings(deadline=None, max_examples=15)
def test_what_is_read_is_kept_once_or_counted_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    corpus = Corpus(tmp_path_factory.mktemp("corpus"))
    corpus.write({"a.jsonl": MANY + jsonl(*texts)})
    clean = SETTINGS.clean.model_copy(update=dict.fromkeys(SETTINGS.clean.model_dump(), False))
    counts = corpus.prepare(SETTINGS.model_copy(update={"clean": clean}))
    filled = [unicodedata.normalize("NFC", text) for text in texts if text.strip()]
    splits = corpus.splits()
    assert sorted(corpus.texts()) == sorted({*filled, *(f"document {number}" for number in range(60))})
    assert counts["dropped"]["empty"]["documents"] == len(texts) - len(filled)
    assert counts["dropped"]["exact_duplicate"]["documents"] == len(filled) - len(set(filled))
    for split, kept in splits.items():
        assert counts[split]["documents"] == len(kept)
        assert counts[split]["characters"] == sum(map(len, kept))
        assert counts[split]["bytes"] == sum(len(text.encode()) for text in kept)
    assert json.loads(corpus.metrics.read_text()) == counts


@given(
    st.lists(st.text(TEXT, min_size=1, max_size=20), max_size=30),
    st.lists(st.text(TEXT, min_size=1, max_size=20), max_size=30),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=8)
def test_adding_documents_moves_none_between_splits(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], more: list[str], seed: int
) -> None:
    settings = SETTINGS.model_copy(update={"split_seed": seed})
    alone, together = Corpus(tmp_path_factory.mktemp("alone")), Corpus(tmp_path_factory.mktemp("together"))
    alone.write({"a.jsonl": MANY + jsonl(*first)})
    alone.prepare(settings)
    together.write({"a.jsonl": jsonl(*more, *reversed(first)) + MANY}, source="another")
    together.prepare(settings)
    for split, texts in alone.splits().items():
        assert set(texts) <= set(together.splits()[split])


NEAR = SETTINGS.model_copy(
    update={"deduplicate": SHARED.deduplicate, "validation_fraction": 0.15, "test_fraction": 0.15}
)


@pytest.mark.parametrize("source", ["another", "zzz"])  # named before made-up, and after it
def test_near_copies_that_are_added_take_no_held_out_place(tmp_path: Path, source: str) -> None:
    """They fall into test, validation and train as the hash will have it; each text of before has several near copies."""
    alone, together = Corpus(tmp_path / "alone"), Corpus(tmp_path / "together")
    texts = [prose(60, seed) for seed in range(40)]
    texts += [f"{text} once more" for text in texts[:10]]
    copies = [f"{text} by {name}" for text in texts for name in ("ann", "bob", "eve")]
    bridges = [f"{texts[number]} {texts[number + 1]}" for number in range(0, 40, 2)]
    texts += [prose(60, seed) for seed in range(100, 150)]
    alone.write({"a.jsonl": jsonl(*texts)})
    together.write({"a.jsonl": jsonl(*texts)})
    together.write({"b.jsonl": jsonl(*copies, *bridges, *texts[:3])}, source=source)
    before, after = alone.prepare(NEAR), together.prepare(NEAR)
    for split in ("validation", "test"):
        kept, now = alone.splits()[split], together.splits()[split]
        assert set(kept) <= set(now)
        assert len(set(now)) == len(now)
    assert after["dropped"]["near_duplicate"]["documents"] > before["dropped"]["near_duplicate"]["documents"]
    assert sum(after["near_copies_held_out"].values()) > sum(before["near_copies_held_out"].values()), "and it is told"
    judged = {" ".join(text.split()[:60]) for split in ("validation", "test") for text in together.splits()[split]}
    assert not judged & {" ".join(text.split()[:60]) for text in together.splits()["train"]}


BOTH = SETTINGS.model_copy(update={"deduplicate": SETTINGS.deduplicate.model_copy(update={"exact": False})})


def test_copies_that_stay_are_spread_over_the_tokens(tmp_path: Path) -> None:
    """Side by side they would fill whole training sequences with one text."""
    texts = [prose(20, seed) for seed in range(100)] + [prose(30, 1000 + number % 25) for number in range(100)]
    streams, names = [], []
    for shards, workers in ((1, 1), (3, 1), (3, 2)):
        corpus = Corpus(tmp_path / f"{shards}{workers}")
        corpus.write({"a.jsonl": jsonl(*texts[:150]), "b.jsonl": jsonl(*texts[150:])})
        engine = ENGINE.model_copy(update={"workers": workers})
        corpus.prepare(BOTH.model_copy(update={"shards": shards, "engine": engine}))
        records = corpus.records("train")
        names.append(sorted(record["id"] for record in records))
        tokenizer = build_tokenizer(
            Tokenizer(kind="char", vocab_size=400, train_bytes=1, special_tokens=()), [], corpus.root / "tokenizer"
        )
        tokens, settings = corpus.root / "tokens", Tokenize(shard_tokens=10_000, shuffle_seed=1)
        tokenize(settings, engine, corpus.output, corpus.root / "tokenizer", tokens, corpus.metrics)
        reader = TokenReader(tokens, "train")
        spans = reader.document_spans()
        streams.append([tokenizer.decode(reader.read(a, b - a - 1).tolist()) for a, b in spans])
    assert names[0] == names[1] == names[2]
    assert len(set(names[0])) == len(names[0]), "each copy has a name of its own"
    assert streams[0] == streams[1] == streams[2]
    assert Counter(streams[0]) == Counter(record["text"] for record in records)
    copies = sum(count for count in Counter(streams[0]).values() if count > 1)
    assert copies > 20
    beside = sum(first == second for first, second in pairwise(streams[0]))
    assert beside < copies / 4, "by chance a few stand side by side, not three of four"


def test_the_split_is_a_share_of_the_documents() -> None:
    counts = Counter(choose_split(number.to_bytes(32, "big"), SETTINGS) for number in range(10_000))
    assert abs(counts["validation"] - 3000) < 250
    assert abs(counts["test"] - 3000) < 250


def test_growing_the_test_split_takes_nothing_out_of_it() -> None:
    larger = SETTINGS.model_copy(update={"test_fraction": 0.4})
    for number in range(1000):
        digest = number.to_bytes(32, "big")
        if choose_split(digest, SETTINGS) == "test":
            assert choose_split(digest, larger) == "test"


def test_another_seed_gives_other_splits() -> None:
    other = SETTINGS.model_copy(update={"split_seed": 1})
    digests = [number.to_bytes(32, "big") for number in range(100)]
    assert [choose_split(d, SETTINGS) for d in digests] != [choose_split(d, other) for d in digests]


REAL = SETTINGS.model_copy(update={"shards": 3, "deduplicate": SHARED.deduplicate, "test_fraction": 0.1})


def write_real(corpus: Corpus, licence: str = readmes.MIT) -> None:
    """Write documents of which some are nearly the same, some hold a benchmark's item and some a licence, in several files."""
    choose = random.Random(0)
    items = [prose(40, seed) for seed in range(1000, 1010)]
    corpus.write_benchmark("quiz", *items)
    originals = [prose(choose.randint(100, 400), seed) for seed in range(60)]
    for number in range(6):
        texts = [choose.choice(originals) + choose.choice(["", "", f" end {number}"]) for _ in range(20)]
        texts += [f"{prose(150, 2000 + number)} {choose.choice(items)} {prose(150, 3000 + number)}"]
        texts += [f"{prose(300, 4000 + 10 * number + place)} {licence}" for place in range(4)]
        corpus.write({f"{number}.jsonl": jsonl(*texts)})


def test_neither_duplicates_nor_what_judges_are_trained_on(corpus: Corpus) -> None:
    write_real(corpus, licence="")
    counts = corpus.prepare(REAL, "quiz")
    assert counts["dropped"]["exact_duplicate"]["documents"] > 0
    assert counts["dropped"]["near_duplicate"]["documents"] > 0
    assert counts["contamination"]["quiz"]["touched"] > 0
    assert counts["cut"]["documents"] + counts["dropped"].get("contaminated", {"documents": 0})["documents"] > 0
    splits = corpus.splits()
    items = [json.loads(line)["texts"][0] for line in (corpus.benchmarks / "quiz.jsonl").open()]
    for text in splits["train"]:
        words = text.split()
        grams = {" ".join(words[start : start + 13]) for start in range(len(words) - 12)}
        for judge in (*items, *splits["validation"], *splits["test"]):
            assert not any(gram in judge for gram in grams)
    report = json.loads((corpus.output / "report.json").read_text())
    assert {match["action"] for match in report["matches"]} <= {"cut", "drop"}
    assert any("quiz" in match["in"] for match in report["matches"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, str]:
    """A corpus prepared by one worker, and the hash of its documents."""
    corpus = Corpus(tmp_path_factory.mktemp("reference"))
    write_real(corpus)
    counts = corpus.prepare(REAL, "quiz")
    assert counts["common_ngrams"] and counts["cut"]["documents"], "or it tests less"
    return corpus, sha256_tree(corpus.output)


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_two_workers_and_ray_make_the_same_bytes(corpus: Corpus, reference: tuple[Corpus, str], kind: str) -> None:
    engine = ENGINE.model_copy(update={"kind": kind, "workers": 2})
    write_real(corpus)
    corpus.prepare(REAL.model_copy(update={"engine": engine}), "quiz")
    assert sha256_tree(corpus.output) == reference[1]
    assert corpus.metrics.read_bytes() == reference[0].metrics.read_bytes()


@pytest.mark.parametrize("shards", [1, 7])
def test_the_number_of_shards_changes_files_but_no_document(
    corpus: Corpus, reference: tuple[Corpus, str], shards: int
) -> None:
    write_real(corpus)
    corpus.prepare(REAL.model_copy(update={"shards": shards}), "quiz")
    for split in SPLITS:
        there, here = (
            {record["id"]: record["text"] for record in each.records(split)} for each in (reference[0], corpus)
        )
        assert there == here
        described = [json.loads((each.output / "documents.json").read_text())[split] for each in (reference[0], corpus)]
        assert described[0]["sha256"] == described[1]["sha256"]
    reports = [json.loads((each.output / "report.json").read_text()) for each in (reference[0], corpus)]
    assert reports[0]["common"] and reports[0]["common"] == reports[1]["common"]


RUN = """
import sys
from pathlib import Path
from tests.corpus.test_prepare import REAL, Corpus, ENGINE
from gpt.corpus.prepare import prepare
if __name__ == "__main__":
    root = Path(sys.argv[1])
    settings = REAL.model_copy(update={"engine": ENGINE.model_copy(update={"workers": 2})})
    prepare(settings, root / "raw", root / "benchmarks", ("quiz",), root / "documents", root / "metrics" / "prepare.json")
"""


@pytest.mark.parametrize(
    "phase",
    ["shared", *(pytest.param(one, marks=pytest.mark.slow) for one in ("read", "n-grams-held_out", "decontaminate"))],
)
def test_a_killed_run_goes_on_and_makes_the_same_bytes(
    corpus: Corpus, reference: tuple[Corpus, str], phase: str
) -> None:
    write_real(corpus)
    run_and_kill(RUN, corpus.root, f".documents.work/tasks/{phase}")
    assert not corpus.output.exists(), "nothing half-written"
    corpus.prepare(REAL, "quiz")
    assert sha256_tree(corpus.output) == reference[1]
    assert not (corpus.root / ".documents.work").exists()


def test_a_power_cut_loses_nothing_that_counts_as_done(corpus: Corpus, reference: tuple[Corpus, str]) -> None:
    write_real(corpus)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        patch.setattr("gpt.corpus.prepare.summarise_corpus", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            corpus.prepare(REAL, "quiz")
    work = corpus.root / ".documents.work"
    disk.cut_power(work)
    marks = {path: path.stat().st_mtime_ns for path in work.rglob("completions/*")}
    assert len(marks) > 10
    corpus.prepare(REAL, "quiz")
    assert sha256_tree(corpus.output) == reference[1]


def test_what_was_done_is_not_done_again(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    write_real(corpus)
    monkeypatch.setattr("gpt.corpus.prepare.summarise_corpus", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        corpus.prepare(REAL, "quiz")
    marks = {path: path.stat().st_mtime_ns for path in (corpus.root / ".documents.work").rglob("completions/*")}
    assert len(marks) > 10
    with pytest.raises(ZeroDivisionError):
        corpus.prepare(REAL, "quiz")
    assert marks == {path: path.stat().st_mtime_ns for path in (corpus.root / ".documents.work").rglob("completions/*")}
    with pytest.raises(ZeroDivisionError):  # other settings begin anew
        corpus.prepare(REAL.model_copy(update={"split_seed": 5}), "quiz")
    again = {path: path.stat().st_mtime_ns for path in (corpus.root / ".documents.work").rglob("completions/*")}
    assert again.keys() == marks.keys()
    assert not set(again.values()) & set(marks.values())


def test_two_processes_do_not_make_the_same_documents(corpus: Corpus) -> None:
    import fcntl

    corpus.write({"a.jsonl": MANY})
    with (corpus.root / ".documents.work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is making it"):
            corpus.prepare()


def test_preparing_twice_gives_the_same_bytes(corpus: Corpus) -> None:
    corpus.write({"b.jsonl": MANY, "a.txt": b"first by name"})
    corpus.prepare()
    first = sha256_tree(corpus.output), corpus.metrics.read_bytes()
    corpus.prepare()
    assert (sha256_tree(corpus.output), corpus.metrics.read_bytes()) == first


def test_a_file_that_is_no_text_is_named_and_changes_nothing(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY})
    corpus.prepare()
    before = sha256_tree(corpus.output), corpus.metrics.read_bytes()
    corpus.write({"bad.txt": b"\xff\xfe\x00"})
    with pytest.raises(UserError, match=r"bad\.txt: .*prepare\.malformed: skip"):
        corpus.prepare()
    assert (sha256_tree(corpus.output), corpus.metrics.read_bytes()) == before
    counts = corpus.prepare(SETTINGS.model_copy(update={"malformed": "skip"}))
    assert counts["dropped"]["malformed: not_utf8"]["documents"] == 1
    report = json.loads((corpus.output / "report.json").read_text())
    assert "bad.txt" in report["examples"]["malformed: not_utf8"][0]


@pytest.mark.parametrize(
    "files", [{}, {"a.txt": b""}, {"a.txt": b" \n\t", "b.jsonl": b"\n\n", "c.jsonl": jsonl("", " ")}]
)
def test_a_corpus_without_text_is_refused(corpus: Corpus, files: dict[str, bytes]) -> None:
    corpus.raw.mkdir()
    corpus.write(files)
    with pytest.raises(UserError, match="holds no document with text"):
        corpus.prepare()
    assert not corpus.output.exists()
    assert not corpus.metrics.exists()


def fails(corpus: Corpus, **change: Any) -> str:
    with pytest.raises(UserError) as caught:
        corpus.prepare(SETTINGS.model_copy(update=change))
    assert not corpus.output.exists()
    assert not corpus.metrics.exists()
    return str(caught.value)


def test_a_corpus_of_one_document_is_told_how_to_have_several(corpus: Corpus) -> None:
    """What nanoGPT's input.txt is: another seed cannot help it."""
    corpus.write({"input.txt": prose(5000, seed=1).encode()})
    message = fails(corpus)
    assert "there is one document" in message
    for key in ("prepare.read.separator", "prepare.read.pattern", "prepare.hold_out: ends"):
        assert key in message
    assert "split_seed" not in message


def test_copies_of_one_document_are_one_and_said_to_be(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": jsonl(*["the same"] * 50)})
    assert (
        "is empty: after what goes (exact duplicate 49; change what drops them if that is wrong) there is one"
        in fails(corpus)
    )


def test_a_split_that_no_document_falls_into_is_told_what_to_change(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": jsonl("one", "two")})
    message = fails(corpus)
    assert "none of 2 documents falls into it; change prepare.split_seed or the fractions" in message
    assert "prepare.hold_out: ends" in message


def test_when_nothing_is_left_to_train_on_the_error_names_what_was_shared(corpus: Corpus) -> None:
    header = prose(30, seed=1)
    corpus.write({"a.jsonl": jsonl(*(f"{header} {number}" for number in range(40)))})
    decontaminate = {"action": {"benchmarks": "cut", "held_out": "cut"}, "ngram": 13, "max_documents": 0}
    decontaminate |= {"window": 200, "min_characters": 200, "max_pieces": 10}
    settings = SETTINGS.decontaminate.model_validate(decontaminate)
    message = fails(corpus, decontaminate=settings)
    trained = sum(choose_split(digest, SETTINGS) == "train" for digest in digests(header))
    assert f"prepare.decontaminate drops all {trained} training documents, which share 13 words in a row" in message
    assert repr(header[:80]) in message
    assert "prepare.decontaminate.max_documents (now 0)" in message
    counts = corpus.prepare()  # with the limit of params.yaml it is boilerplate
    assert counts["train"]["documents"] == trained
    assert counts["cut"]["documents"] == 0
    report = json.loads((corpus.output / "report.json").read_text())
    assert [(passage["documents"], passage["in"]) for passage in report["common"]] == [
        (trained, ["test", "validation"])
    ]
    assert report["contaminated"]["test"]["common"], "they have nothing else to be found by"


def digests(header: str) -> list[bytes]:
    return [hashlib.sha256(f"{header} {number}".encode()).digest() for number in range(40)]


ENDS = SETTINGS.model_copy(update={"hold_out": "ends", "validation_fraction": 0.1, "test_fraction": 0.1})


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"line {number} of {prose(8, number)}\n" for number in range(400)),
        prose(3000, seed=1),
        "".join(chr(0x4E00 + number * 7 % 20_000) for number in range(5000)),
        "".join(f"👩‍👩‍👧‍👦{number}e\u0301" for number in range(500)),
        "".join(map(str, range(2000))),
    ],
    ids=["lines", "words", "no spaces", "emoji", "one word"],
)
def test_the_end_of_a_text_can_be_held_out_as_nanogpt_does(corpus: Corpus, text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    corpus.write({"input.txt": text.encode()})
    corpus.prepare(ENDS.model_copy(update={"decontaminate": REPORT}))
    splits = {split: "".join(texts) for split, texts in corpus.splits().items()}
    assert splits["train"] + splits["test"] + splits["validation"] == text
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert len(splits[split]) == pytest.approx(share * len(text), abs=0.02 * len(text) + 20)
    for part in (splits["validation"], splits["test"]):
        assert unicodedata.combining(part[0]) == 0 and part[0] not in "\u200d\ufe0f"
    if "\n" in text:
        assert splits["train"].endswith("\n") and splits["test"].endswith("\n")


REPORT = SETTINGS.decontaminate.model_copy(
    update={"action": SETTINGS.decontaminate.action.model_copy(update={"benchmarks": "report", "held_out": "report"})}
)


def test_the_ends_of_many_texts_are_held_out_and_new_texts_move_none(tmp_path: Path) -> None:
    texts = [prose(200, seed) for seed in range(12)]
    few, more = Corpus(tmp_path / "few"), Corpus(tmp_path / "more")
    few.write({"a.jsonl": jsonl(*texts[:6])})
    few.prepare(ENDS)
    more.write({"a.jsonl": jsonl(*reversed(texts))})
    more.prepare(ENDS)
    for split in SPLITS:
        assert len(few.records(split)) == 6
        assert set(few.splits()[split]) <= set(more.splits()[split])


def test_texts_too_short_to_hold_out_their_ends_are_told(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": jsonl("a", "b")})
    assert "no end of a document is left to hold out" in fails(corpus, hold_out="ends")
    corpus.write({"a.jsonl": jsonl("x" * 5000)})
    message = fails(corpus, hold_out="ends", validation_fraction=0.25, test_fraction=0.25)
    assert "after what goes (exact duplicate 1; " in message and "no end of a document is left" in message


def test_a_source_can_keep_its_copies_and_those_of_others_still_go(corpus: Corpus) -> None:
    """Each source says what happens to its own documents; of several the first named source's stays, as ever."""
    copies, near = [f"copied {number}" for number in range(8)], [prose(200, seed) for seed in range(8)]
    for source in ("a-web", "b-books", "c-forum"):
        texts = [*copies, *copies, *(f"{text} {source}" for text in near)]
        corpus.write({"a.jsonl": jsonl(*texts, *(f"{source} {number}" for number in range(30)))}, source=source)
    deduplicate = SHARED.deduplicate.model_copy(update={"buckets": 20, "hashes": 4})
    by_source = {"b-books": {"deduplicate": {"exact": False, "minhash": False}}}
    corpus.prepare(
        SETTINGS.model_copy(update={"deduplicate": deduplicate, "by_source": by_source, "decontaminate": REPORT})
    )
    found = Counter((record["source"], record["text"]) for split in SPLITS for record in corpus.records(split))
    trained = Counter((record["source"], record["text"]) for record in corpus.records("train"))
    for text in copies:
        assert [found[source, text] for source in ("a-web", "b-books", "c-forum")] == [1, 2, 0]
    ids = [record["id"] for split in SPLITS for record in corpus.records(split)]
    assert len(set(ids)) == len(ids), "copies that stay are shuffled apart"
    for text in near:
        assert found["b-books", f"{text} b-books"] == 1
        assert sum(trained[source, f"{text} {source}"] for source in ("a-web", "c-forum")) <= 1


def test_one_source_alone_can_be_deduplicated(corpus: Corpus) -> None:
    for source in ("a-web", "b-books"):
        texts = [*["copied"] * 3, *(f"{source} {number}" for number in range(30))]
        corpus.write({"a.jsonl": jsonl(*texts)}, source=source)
    deduplicate = SETTINGS.deduplicate.model_copy(update={"exact": False})
    by_source = {"b-books": {"deduplicate": {"exact": True}}}
    counts = corpus.prepare(SETTINGS.model_copy(update={"deduplicate": deduplicate, "by_source": by_source}))
    found = Counter((record["source"], record["text"]) for split in SPLITS for record in corpus.records(split))
    assert [found[source, "copied"] for source in ("a-web", "b-books")] == [3, 0]
    assert counts["dropped"]["exact_duplicate"]["documents"] == 3


def test_sources_are_read_cleaned_and_filtered_each_in_its_way(corpus: Corpus) -> None:
    escaped = "s = '&amp;' # naÃ¯ve"
    corpus.write({"a.jsonl": MANY})
    for source in ("code", "forum"):
        corpus.write({"a.txt": f"{escaped} {source}|short".encode()}, source=source)
    kept = {"kind": "gopher_quality", "min_doc_words": 2, "max_doc_words": 0, "min_avg_word_length": 0}
    kept |= {"max_avg_word_length": 0, "max_symbol_word_ratio": 0.0, "max_bullet_lines_ratio": 0.0}
    kept |= {"max_ellipsis_lines_ratio": 0.0, "max_non_alpha_words_ratio": 0.0, "min_stop_words": 0}
    by_source = {
        "code": {"clean": {"repair_unicode": False}},
        "forum": {"read": {"separator": "|"}, "clean": {"unescape_html": True}, "filters": [kept]},
    }
    corpus.prepare(Prepare.model_validate(SETTINGS.model_dump() | {"by_source": by_source}))
    texts = {(record["source"], record["text"]) for split in SPLITS for record in corpus.records(split)}
    assert {text for source, text in texts if source == "code"} == {f"{escaped} code|short"}
    assert {text for source, text in texts if source == "forum"} == {"s = '&' # naïve forum"}


def test_a_benchmark_that_judges_nothing_changes_no_byte(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY})
    corpus.write_benchmark("quiz", prose(40, 1))
    corpus.prepare(SETTINGS, "quiz")
    before = sha256_tree(corpus.output), corpus.metrics.read_bytes()
    listed = read_json(corpus.benchmarks / "benchmarks.json", "")
    write_json(corpus.benchmarks / "benchmarks.json", listed | {"other": {"sources": ["new"]}})
    corpus.prepare(SETTINGS, "quiz")
    assert (sha256_tree(corpus.output), corpus.metrics.read_bytes()) == before


def test_a_benchmark_that_was_not_fetched_is_named(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY})
    with pytest.raises(UserError, match=r"evaluate\.benchmarks: quiz"):
        corpus.prepare(SETTINGS, "quiz")


def test_a_sample_is_of_about_the_size_asked_for_and_always_the_same(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": jsonl(*(prose(50, seed) for seed in range(400)))})
    size = corpus.prepare()["train"]["bytes"]
    sample = list(sample_texts(corpus.output, "train", size // 2))
    assert sum(map(len, sample)) == pytest.approx(size / 2, rel=0.25)
    assert sample == list(sample_texts(corpus.output, "train", size // 2))
    assert list(sample_texts(corpus.output, "train", size)) == corpus.splits()["train"]
    for wanted in (1, size // 100, size // 4, size - 1):
        chosen = list(sample_texts(corpus.output, "train", wanted))
        by_hash = []
        for record in corpus.records("train"):
            # A part of what is longer than a twentieth of the sample.
            times = max(1, len(orjson.dumps(record)) / max(1, wanted // 20))
            chance = min(1, times * wanted / size)
            if int.from_bytes(hashlib.sha256(record["id"].encode()).digest()[:8], "big") < chance * 2**64:
                by_hash.append(record["text"][: math.ceil(len(record["text"]) * wanted / size / chance)])
        assert list(map(len, chosen)) == [pytest.approx(len(text), abs=1) for text in by_hash]
        assert all(text.startswith(part[:-1]) for text, part in zip(chosen, by_hash, strict=True))
    assert chosen == by_hash, "whole documents"


def test_a_sample_is_the_same_texts_for_any_number_of_shards_and_workers(tmp_path: Path) -> None:
    samples = set()
    for shards, workers in ((1, 1), (5, 1), (5, 2)):
        corpus = Corpus(tmp_path / f"{shards}{workers}")
        corpus.write({f"{part}.jsonl": jsonl(*(prose(20, 9 * seed + part) for seed in range(40))) for part in range(9)})
        engine = ENGINE.model_copy(update={"workers": workers})
        corpus.prepare(SETTINGS.model_copy(update={"shards": shards, "engine": engine}))
        for wanted in (1000, 3000):  # parts, and whole documents
            samples.add(frozenset(sample_texts(corpus.output, "train", wanted)))
    assert len(samples) == 2
    assert all(5 < len(sample) < 60 for sample in samples)


@pytest.mark.parametrize("lengths", [[40_000], [20_000] * 3, [20_000, *[50] * 500]], ids=["one", "three", "and short"])
def test_a_sample_of_long_documents_has_its_size_too_and_a_part_of_each(corpus: Corpus, lengths: list[int]) -> None:
    """A folder of a few large files: none may fill the sample, or be left out of it, by its hash."""
    texts = [prose(length, seed) for seed, length in enumerate(lengths)]
    corpus.write({"a.jsonl": jsonl(*texts)})
    ends = {"hold_out": "ends", "validation_fraction": 0.01, "test_fraction": 0.01}
    settings = SETTINGS.model_copy(update={"max_document_bytes": 10**8} | ends)
    size = corpus.prepare(settings)["train"]["bytes"]
    sample = list(sample_texts(corpus.output, "train", size // 10))
    assert sum(map(len, sample)) == pytest.approx(size / 10, rel=0.1)
    whole = corpus.splits()["train"]
    for text in whole:
        if len(text) > size // 200:
            assert any(text.startswith(part) and len(part) < len(text) for part in sample)


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes that only Linux counts")
def test_a_sample_reads_little_more_than_it_takes(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": jsonl(*(prose(500, seed) for seed in range(1200)))})
    size = corpus.prepare()["train"]["bytes"]
    process: Any = psutil.Process()  # its stubs know no Linux
    before = process.io_counters().read_chars
    taken = sum(len(text) for text in sample_texts(corpus.output, "train", size // 20))
    assert process.io_counters().read_chars - before < 2 * taken + 100_000 < size


@pytest.mark.parametrize(
    ("ending", "damage", "message"),
    [
        ("jsonl", lambda data: data[:1000] + b"#" + data[1001:], "is not as gpt prepare wrote it"),
        ("jsonl", lambda data: b"", "is not as gpt prepare wrote it"),
        ("places", lambda data: data[:5] + bytes([data[5] ^ 1]) + data[6:], "is not as gpt prepare wrote it"),
        ("places", lambda data: data[:14] + bytes([data[14] ^ 1]) + data[15:], "is not as gpt prepare wrote it"),
        ("places", lambda data: data[:-28], "lists .* of .* documents"),
        ("places", lambda data: b"", "lists .* of .* documents"),
        ("places", None, "places: not found"),
    ],
)
def test_damage_where_a_sample_is_read_is_a_clear_error(
    corpus: Corpus, ending: str, damage: Callable[[bytes], bytes] | None, message: str
) -> None:
    corpus.write({"a.jsonl": jsonl(*(prose(50, seed) for seed in range(100)))})
    size = corpus.prepare(SETTINGS.model_copy(update={"shards": 1}))["train"]["bytes"]
    path = corpus.output / f"train_00000.{ending}"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(UserError, match=f"{message}.*run `gpt prepare` again"):
        list(sample_texts(corpus.output, "train", size - 1))


def test_damaged_documents_are_a_clear_error(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY})
    corpus.prepare()
    path = corpus.output / "train_00000.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"train_00000\.jsonl: SHA-256 is .*run `gpt prepare` again"):
        list(read_documents(corpus.output, "train"))
