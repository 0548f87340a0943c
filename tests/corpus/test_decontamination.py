import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.corpus.boilerplate import SHARED, ChooseCommon, CountDocuments, ListUnprotected
from gpt.corpus.decontamination import BENCHMARKS, HELD_OUT, Decontaminate, Judges, cut
from gpt.corpus.index import IndexTexts, Matcher, MergeIndex
from gpt.corpus.summary import _common, _judged
from gpt.corpus.words import split_words
from gpt.params.corpus import Decontaminate as Settings
from tests.corpus import readmes

N = 13
SETTINGS = Settings.model_validate(
    {
        "action": {"benchmarks": "cut", "held_out": "cut"},
        "ngram": N,
        "max_documents": 10,
        "window": 0,
        "min_characters": 1,
        "max_pieces": 10,
    }
)


def prose(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices([f"word{number}" for number in range(500)], k=words))


def actions(benchmarks: str, held_out: str = "cut") -> Settings:
    return Settings.model_validate(SETTINGS.model_dump() | {"action": {"benchmarks": benchmarks, "held_out": held_out}})


class Index:
    """An index of benchmarks, each a list of items, each a list of texts, and one of held-out documents."""

    def __init__(
        self,
        root: Path,
        benchmarks: dict[str, list[list[str]]],
        change: Settings = SETTINGS,
        held_out: tuple[str, ...] = (),
    ) -> None:
        self.settings, self.root = change, root
        self.judges = [
            Judges(BENCHMARKS, [self.write(*entry) for entry in benchmarks.items()], root / "index" / BENCHMARKS)
        ]
        if held_out:
            owner = self.write("test", [[text] for text in held_out])
            self.judges.append(Judges(HELD_OUT, [owner], root / "index" / HELD_OUT))
        for judges in self.judges:
            for task in range(len(judges.owners)):
                list(IndexTexts(judges.owners, judges.index, change.ngram).run(rank=task))
            judges.index.mkdir(parents=True, exist_ok=True)
            list(MergeIndex(judges.index).run())

    def write(self, name: str, items: list[list[str]]) -> tuple[str, Path]:
        path = self.root / f"{name}.jsonl"
        lines = (json.dumps({"id": f"{name}/{number}", "texts": texts}) for number, texts in enumerate(items))
        path.write_text("".join(f"{line}\n" for line in lines))
        return name, path

    def matcher(self) -> Matcher:
        return Matcher(self.judges[0].index, self.settings.ngram)

    def run(self, *texts: str, shards: int = 1) -> list[str]:
        """Return what is left of the texts of documents, of which each shard has some."""
        documents = [
            [
                Document(
                    text=text,
                    id=f"d{number}",
                    metadata={"split": "train", "source": "made-up", "words": 0, "metadata": {}},
                )
                for number, text in enumerate(texts)
                if number % shards == shard
            ]
            for shard in range(shards)
        ]
        common, ngram = self.root / "common", self.settings.ngram
        for shard in range(shards):
            list(CountDocuments([each.index for each in self.judges], ngram, common).run(documents[shard], shard))
        list(ChooseCommon(self.settings.max_documents, common).run())
        list(MergeIndex(common).run())
        for each in self.judges:
            step = ListUnprotected(each.owners, each.index, common, ngram, self.root / "unprotected" / each.kind)
            for task in range(len(each.owners)):
                list(step.run(rank=task))
        step = Decontaminate(self.settings, self.judges, common, self.root)
        return [document.text for shard in range(shards) for document in step.run(documents[shard], shard)]

    def matches(self, kind: str = BENCHMARKS) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "matches" / kind / "00000.jsonl").read_text().splitlines()]

    def summary(self, kind: int = 0) -> dict[str, dict[str, Any]]:
        return _judged(self.judges[kind], self.root)

    def common(self) -> list[dict[str, Any]]:
        return _common(self.judges, self.root / "common", self.settings.ngram)


def leaks(item: str) -> dict[str, str]:
    words = item.split()
    return {
        "verbatim": item,
        "re-cased": item.upper(),
        "re-punctuated": "; ".join(words),
        "re-wrapped": "\n\n   ".join(words),
        "accented": item.replace("o", "ö"),
        "first half": " ".join(words[: len(words) // 2]),
        "last half": " ".join(words[len(words) // 2 :]),
    }


@pytest.mark.parametrize("kind", leaks("a b"))
def test_a_leak_is_found_and_nothing_else_is_cut(tmp_path: Path, kind: str) -> None:
    item = prose(40, seed=1)
    index = Index(tmp_path, {"quiz": [[item]]})
    before, after = prose(30, seed=2), prose(30, seed=3)
    leak = leaks(item)[kind]
    assert index.run(f"{before} {leak} {after}") == [before, after]
    (match,) = index.matches()
    assert (match["document"], match["action"], match["in"]) == ("d0", "cut", [[0, 0]])
    assert match["text"] == leak[:300]
    assert match["words"] == len(split_words(leak))


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_text_matches_just_where_it_has_n_words_in_a_row_with_an_item(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Few words, so that chance makes matches, against a search that compares words with words."""
    words = st.lists(st.sampled_from("ab"), max_size=30)
    items, text = data.draw(st.lists(words, max_size=4)), data.draw(words)
    change = SETTINGS.model_copy(update={"ngram": data.draw(st.integers(2, 8))})
    n = change.ngram
    index = Index(tmp_path_factory.mktemp("index"), {"quiz": [[" ".join(item)] for item in items]}, change)
    grams = {tuple(item[start : start + n]) for item in items for start in range(len(item) - n + 1)}
    hit = {
        place
        for start in range(len(text) - n + 1)
        if tuple(text[start : start + n]) in grams
        for place in range(start, start + n)
    }
    found = index.matcher().find(text)
    assert {place for match in found for place in range(match.first, match.last)} == hit


def test_a_near_miss_of_n_minus_1_words_stays(tmp_path: Path) -> None:
    item = prose(60, seed=1)
    index = Index(tmp_path, {"quiz": [[item]]})
    near = " ".join(f"x{place}" if place % N == N - 1 else word for place, word in enumerate(item.split()))
    assert index.run(near) == [near]
    assert index.matches() == []


@pytest.mark.parametrize("kind", [BENCHMARKS, HELD_OUT])
def test_two_hundred_planted_leaks_are_found_and_two_hundred_near_misses_stay(tmp_path: Path, kind: str) -> None:
    choose = random.Random(0)
    items = [prose(choose.randint(26, 90), seed) for seed in range(200)]
    if kind == BENCHMARKS:
        index = Index(tmp_path, {"quiz": [[item] for item in items]})
    else:
        index = Index(tmp_path, {}, held_out=tuple(items))
    leaks = [f"{prose(20, 1000 + number)} {readmes.leak(item, number, choose)}" for number, item in enumerate(items)]
    near = [readmes.near_miss(item, N) for item in items]
    left = index.run(*leaks, *near)
    assert left[:200] == [prose(20, 1000 + number) for number in range(200)]
    assert left[200:] == near


def test_actions(tmp_path: Path) -> None:
    item, other = prose(40, seed=1), prose(40, seed=2)
    for action, expected in (("drop", [other]), ("report", [f"{other} {item}", other]), ("cut", [other, other])):
        folder = tmp_path / action
        folder.mkdir()
        index = Index(folder, {"quiz": [[item]]}, actions(action))
        assert index.run(f"{other} {item}", other) == expected
        assert [match["action"] for match in index.matches()] == [action]


@pytest.mark.parametrize(
    ("benchmarks", "held_out", "left"),
    [
        ("cut", "report", ["a b x c HELD y d e f"]),
        ("report", "cut", ["a b QUIZ c x y d e f"]),
        ("drop", "report", []),
        ("report", "drop", []),
        ("report", "report", ["a b QUIZ c HELD d e f"]),
    ],
)
def test_benchmarks_and_held_out_documents_have_actions_of_their_own(
    tmp_path: Path, benchmarks: str, held_out: str, left: list[str]
) -> None:
    quiz, held = prose(40, seed=1), prose(40, seed=2)
    index = Index(tmp_path, {"quiz": [[quiz]]}, actions(benchmarks, held_out), held_out=(held,))
    found = index.run(f"a b {quiz} c {held} d e f")
    expected = [text.replace("QUIZ", quiz).replace("HELD", held) for text in left]
    assert " ".join(found).split() == [word for text in expected for word in text.split() if word not in "xy"]
    assert index.summary()["quiz"]["touched"] == ["quiz/0"]
    assert index.summary(1)["test"]["touched"] == ["test/0"]
    dropped = "drop" in (benchmarks, held_out)
    assert [match["action"] for match in index.matches(HELD_OUT)] == ["drop" if dropped else held_out]


def test_a_window_is_cut_around_a_benchmarks_passage_alone(tmp_path: Path) -> None:
    quiz, held, beside = prose(40, seed=1), prose(40, seed=2), prose(30, seed=3)
    change = SETTINGS.model_copy(update={"window": 50})
    index = Index(tmp_path, {"quiz": [[quiz]]}, change, held_out=(held,))
    assert index.run(f"{beside} {held} {beside}") == [beside, beside]
    before, after = index.run(f"{beside} {quiz} {beside}")
    assert beside.startswith(before) and beside.endswith(after)
    assert 50 <= len(beside) - len(before) < 62 and 50 <= len(beside) - len(after) < 62


def licensed(number: int, seed: int = 0) -> str:
    """A file of code under a licence that bears its own year and name, in comments."""
    lines = f"Copyright (c) {2000 + number} Author{number} of{number} Place{number}\n{readmes.APACHE}".splitlines()
    return "\n".join(f"// {line}" for line in lines) + f"\n{prose(60, seed=100 + number + seed)}"


@pytest.mark.parametrize("shards", [1, 3])
def test_what_many_training_documents_share_is_left_alone_whatever_stands_in_it(tmp_path: Path, shards: int) -> None:
    """Year and name make n-grams that one document alone has with a held-out one, but of words of the licence."""
    held = licensed(3, seed=1000)
    index = Index(tmp_path, {"quiz": [[prose(40, seed=1)]]}, held_out=(held,))
    documents = [licensed(number) for number in range(11)]
    assert sorted(index.run(*documents, shards=shards)) == sorted(documents)
    (passage,) = index.common()
    assert passage["documents"] == 11
    assert passage["in"] == ["test"]
    assert passage["text"].startswith("Licensed under the Apache License")
    assert passage["words"] == len(split_words(readmes.APACHE))


def test_up_to_the_limit_it_is_a_leak_and_with_a_limit_of_0_always(tmp_path: Path) -> None:
    held = licensed(3, seed=1000)
    for limit, count, stays in ((10, 10, False), (10, 11, True), (3, 4, True), (0, 100, False)):
        folder = tmp_path / f"{limit}-{count}"
        folder.mkdir()
        index = Index(folder, {}, SETTINGS.model_copy(update={"max_documents": limit}), held_out=(held,))
        documents = [licensed(number) for number in range(10, 10 + count)]
        assert (index.run(*documents) == documents) == stays
        assert bool(index.common()) == stays


def test_a_leak_beside_what_many_share_is_cut_and_nothing_else(tmp_path: Path) -> None:
    held = f"{readmes.MIT} {prose(60, seed=5)}"
    index = Index(tmp_path, {}, held_out=(held,))
    documents = [f"{prose(30, seed)} {readmes.MIT} {prose(30, seed + 50)}" for seed in range(10, 25)]
    leaking = f"{readmes.MIT} {' '.join(prose(60, seed=5).split()[20:40])} {prose(30, seed=6)}"
    left = index.run(*documents, leaking)
    assert left[:-2] == documents
    assert left[-2:] == [readmes.MIT, prose(30, seed=6)]


def test_an_n_gram_counts_once_a_document(tmp_path: Path) -> None:
    item = prose(40, seed=1)
    index = Index(tmp_path, {"quiz": [[item]]})
    assert index.run("\n".join([item] * 20)) == []
    assert set(np.fromfile(tmp_path / "common" / "00000.shared", SHARED)["documents"].tolist()) == {1}
    assert index.common() == []


def test_items_of_which_nothing_is_left_to_find_are_named(tmp_path: Path) -> None:
    saying, own = prose(20, seed=1), prose(20, seed=2)
    index = Index(
        tmp_path, {"quiz": [[saying], [f"{saying} {own}"], [own], [f"{saying} and so on"], ["short", saying]]}
    )
    documents = [f"{prose(30, seed)} {saying}" for seed in range(10, 30)]
    assert index.run(*documents, own) == documents
    assert index.summary()["quiz"] == {
        "items": 5,
        "touched": ["quiz/1", "quiz/2"],
        "unprotected": [],
        "common": ["quiz/0", "quiz/3", "quiz/4"],
    }


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=12), max_size=8), st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_common_n_grams_are_those_in_more_documents_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], limit: int, shards: int
) -> None:
    root = tmp_path_factory.mktemp("index")
    item = "a b a a b b a b b b a a a"
    index = Index(root, {"quiz": [[item]]}, SETTINGS.model_copy(update={"ngram": 3, "max_documents": limit}))
    index.run(*(" ".join(text) for text in texts), shards=shards)

    def grams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}

    held = grams([*item.split()])
    expected = sorted(count for gram in held if (count := sum(gram in grams(text) for text in texts)) > limit)
    assert sorted(np.fromfile(root / "common" / "common", SHARED)["documents"].tolist()) == expected


HAN = [chr(code) for code in range(0x4E00, 0x5200)]
THAI = [chr(code) for code in range(0x0E01, 0x0E2F)]


@pytest.mark.parametrize(("characters", "passage", "phrase"), [(HAN, 60, 14), (THAI, 160, 28)])
def test_a_passage_without_spaces_is_found_and_a_phrase_is_none(
    tmp_path: Path, characters: list[str], passage: int, phrase: int
) -> None:
    """Thirteen characters of Chinese or Thai are a name: too few to be a leak."""
    choose = random.Random(0)

    def written(count: int) -> str:
        return "".join(choose.choices(characters, k=count))

    items = [written(200) for _ in range(20)]
    index = Index(tmp_path, {"quiz": [[item] for item in items]})
    leaks = [f"{written(30)}{item[50 : 50 + passage]}{written(30)}" for item in items]
    wrapped = ["\n".join(leak[start : start + 20] for start in range(0, len(leak), 20)) for leak in leaks]
    phrases = [f"{written(30)}{item[50 : 50 + phrase]}{written(30)}" for item in items]
    index.run(*phrases, *leaks, *wrapped)
    touched = {match["document"] for match in index.matches()}
    assert touched == {f"d{number}" for number in range(20, 60)}


def test_short_pieces_and_documents_in_shreds_go(tmp_path: Path) -> None:
    item = prose(20, seed=1)
    for number, (change, expected) in enumerate(
        [
            ({"min_characters": 100}, [prose(50, seed=2)]),
            ({"max_pieces": 1}, []),
            ({"max_pieces": 2}, ["short", prose(50, seed=2)]),
            ({"min_characters": 10_000}, []),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        index = Index(folder, {"quiz": [[item]]}, SETTINGS.model_copy(update=change))
        assert index.run(f"short {item} {prose(50, seed=2)}") == expected
        assert [match["action"] for match in index.matches()] == ["cut" if expected else "drop"]


def test_the_report_names_what_was_touched_and_what_cannot_be_protected(tmp_path: Path) -> None:
    shared, own, short = prose(30, seed=1), prose(30, seed=2), prose(N - 1, seed=3)
    index = Index(tmp_path, {"quiz": [[shared, short], [own], [short]], "exam": [[own], [shared]]})
    index.run(f"{prose(20, seed=4)} {shared}", short)
    assert index.summary() == {
        "quiz": {"items": 3, "touched": ["quiz/0"], "unprotected": ["quiz/2"], "common": []},
        "exam": {"items": 2, "touched": ["exam/1"], "unprotected": [], "common": []},
    }
    assert index.matches()[0]["in"] == [[0, 0], [1, 1]]


@given(st.text("ab \n", max_size=60), st.lists(st.integers(0, 60), max_size=8), st.integers(0, 10))
@settings(max_examples=300)
def test_a_cut_leaves_what_is_outside_and_nothing_inside(text: str, bounds: list[int], window: int) -> None:
    bounds = sorted({min(bound, len(text)) for bound in bounds})
    ranges = [(start, end) for start, end in zip(bounds[::2], bounds[1::2], strict=False)]
    marked = list(text)
    for start, end in ranges:
        marked[start:end] = "X" * (end - start)
    pieces = cut("".join(marked), [(start - window, end + window) for start, end in ranges])
    assert not any("X" in piece for piece in pieces)
    rest, position = "".join(marked), 0
    for piece in pieces:
        position = rest.index(piece, position) + len(piece)
    if not ranges:
        assert pieces == ([text.strip()] if text.strip() else [])


def test_a_cut_goes_out_to_the_next_space() -> None:
    text = "one two three MATCH four five six"
    start = text.index("MATCH")
    assert cut(text, [(start, start + 5)]) == ["one two three", "four five six"]
    assert cut(text, [(start - 3, start + 8)]) == ["one two", "five six"]
    assert cut(text, [(start - 3, start + 5), (start, start + 8)]) == ["one two", "five six"]
    assert cut(text, [(start - 100, start + 100)]) == []


def test_an_empty_index_matches_nothing(tmp_path: Path) -> None:
    index = Index(tmp_path, {"quiz": [["too short"]]})
    assert index.run(prose(40, seed=1)) == [prose(40, seed=1)]
    assert index.summary()["quiz"]["unprotected"] == ["quiz/0"]
