import json
import random
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.corpus.decontamination import Decontaminate, cut, plant, summarise
from gpt.corpus.index import IndexTexts, Matcher, MergeIndex
from gpt.corpus.words import split_words
from gpt.params.corpus import Decontaminate as Settings

N = 13
SETTINGS = Settings(action="cut", ngram=N, window=0, min_characters=1, max_pieces=10)


def prose(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices([f"word{number}" for number in range(500)], k=words))


class Index:
    """An index of benchmarks, each a list of items, each a list of texts."""

    def __init__(self, root: Path, benchmarks: dict[str, list[list[str]]], change: Settings = SETTINGS) -> None:
        self.settings, self.root = change, root
        self.owners = []
        for name, items in benchmarks.items():
            path = root / f"{name}.jsonl"
            lines = (json.dumps({"id": f"{name}/{number}", "texts": texts}) for number, texts in enumerate(items))
            path.write_text("".join(f"{line}\n" for line in lines))
            self.owners.append((name, path))
        for task in range(len(self.owners)):
            list(IndexTexts(self.owners, root / "index", change.ngram).run(rank=task))
        (root / "index").mkdir(exist_ok=True)
        list(MergeIndex(root / "index").run())

    def matcher(self) -> Matcher:
        return Matcher(self.root / "index", self.settings.ngram)

    def run(self, *texts: str) -> list[str]:
        """Return what is left of the texts of documents."""
        documents = (
            Document(
                text=text, id=f"d{number}", metadata={"split": "train", "source": "made-up", "words": 0, "metadata": {}}
            )
            for number, text in enumerate(texts)
        )
        step = Decontaminate(self.settings, self.root / "index", self.root / "matches")
        return [document.text for document in step.run(documents)]

    def matches(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "matches" / "00000.jsonl").read_text().splitlines()]

    def summary(self) -> dict[str, dict[str, Any]]:
        return summarise(self.owners, self.root / "index", self.root / "matches")


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


def test_two_hundred_planted_leaks_are_found_and_two_hundred_near_misses_stay(tmp_path: Path) -> None:
    items = [prose(random.Random(seed).randint(26, 90), seed) for seed in range(400)]
    index = Index(tmp_path, {"quiz": [[item] for item in items]})
    planted = plant([path for _, path in index.owners], index.matcher(), N, seed=0)
    assert planted == {"leaks": 200, "leaks_found": 200, "near_misses": 200, "near_misses_flagged": 0}


def test_planting_shows_a_matcher_that_finds_nothing(tmp_path: Path) -> None:
    index = Index(tmp_path, {"quiz": [[prose(40, seed)] for seed in range(10)]})
    empty = Index(tmp_path / "empty", {}) if (tmp_path / "empty").mkdir() is None else None
    assert empty is not None
    planted = plant([path for _, path in index.owners], empty.matcher(), N, seed=0)
    assert (planted["leaks"], planted["leaks_found"]) == (10, 0)


def test_actions(tmp_path: Path) -> None:
    item, other = prose(40, seed=1), prose(40, seed=2)
    for action, expected in (("drop", [other]), ("report", [f"{other} {item}", other]), ("cut", [other, other])):
        folder = tmp_path / action
        folder.mkdir()
        index = Index(folder, {"quiz": [[item]]}, SETTINGS.model_copy(update={"action": action}))
        assert index.run(f"{other} {item}", other) == expected
        assert [match["action"] for match in index.matches()] == [action]


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
        "quiz": {"items": 3, "touched": ["quiz/0"], "unprotected": ["quiz/2"]},
        "exam": {"items": 2, "touched": ["exam/1"], "unprotected": []},
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
    pieces = cut("".join(marked), ranges, window)
    assert not any("X" in piece for piece in pieces)
    rest, position = "".join(marked), 0
    for piece in pieces:
        position = rest.index(piece, position) + len(piece)
    if not ranges:
        assert pieces == ([text.strip()] if text.strip() else [])


def test_a_window_goes_out_to_the_next_space(tmp_path: Path) -> None:
    text = "one two three MATCH four five six"
    start = text.index("MATCH")
    assert cut(text, [(start, start + 5)], 0) == ["one two three", "four five six"]
    assert cut(text, [(start, start + 5)], 3) == ["one two", "five six"]
    assert cut(text, [(start, start + 5)], 100) == []


def test_an_empty_index_matches_nothing(tmp_path: Path) -> None:
    index = Index(tmp_path, {"quiz": [["too short"]]})
    assert index.run(prose(40, seed=1)) == [prose(40, seed=1)]
    assert index.summary()["quiz"]["unprotected"] == ["quiz/0"]
