"""The index of what judges a model says whose each n-gram is, however many owners there are."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from gpt.corpus import index as indexing
from gpt.corpus.index import HASH, IndexTexts, Matcher, MergeIndex, find_owners
from gpt.corpus.words import ngram_hashes, split_words

NGRAM = 3


def make_index(folder: Path, owners: list[list[str]]) -> list[list[set[int]]]:
    """Index owners' texts, an item each; return the hashes of each."""
    described = []
    for number, texts in enumerate(owners):
        path = folder / f"{number}.jsonl"
        lines = (json.dumps({"id": f"{place}", "text": text}) + "\n" for place, text in enumerate(texts))
        path.write_text("".join(lines))
        described.append((f"owner{number}", path))
    for task in range(len(owners)):
        list(IndexTexts(described, folder / "index", NGRAM).run(rank=task))
    list(MergeIndex(folder / "index").run())
    return [[set(ngram_hashes(split_words(text), NGRAM).tolist()) for text in texts] for texts in owners]


def prose(choose: random.Random) -> str:
    return " ".join(choose.choices("abcdefgh", k=choose.randint(0, 12)))


@pytest.mark.parametrize("at_once", [1 << 20, 3])
def test_owners_of_n_grams_are_those_that_a_plain_search_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(indexing, "_HOLDERS_AT_ONCE", at_once)
    monkeypatch.setattr(indexing, "_HASHES_AT_ONCE", 10 * at_once)
    choose = random.Random(0)
    held = make_index(tmp_path, [[prose(choose) for _ in range(choose.randint(0, 9))] for _ in range(12)])
    known = sorted(set[int]().union(*(hashes for items in held for hashes in items)))
    assert np.fromfile(tmp_path / "index" / "index", HASH).tolist() == known
    unknown = [1, 2**64 - 1, known[0] + 1]
    groups = [choose.sample(known, choose.randint(0, 9)) + choose.sample(unknown, 2) for _ in range(40)]
    expected = [
        {
            owner: places
            for owner, items in enumerate(held)
            if (places := [place for place, hashes in enumerate(items) if hashes & set(group)])
        }
        for group in groups
    ]
    found = find_owners(tmp_path / "index", [np.array(group, HASH) for group in groups])
    assert [{owner: items.tolist() for owner, items in group.items()} for group in found] == expected


def test_no_file_of_an_owner_is_looked_at_to_find_owners(tmp_path: Path) -> None:
    """There are two for each shard, and as many tasks that ask as there are shards."""
    make_index(tmp_path, [["a b c d"], ["b c d e"], ["x y z"]])
    for path in (tmp_path / "index").glob("0*"):
        path.unlink()
    (found,) = find_owners(tmp_path / "index", [ngram_hashes(split_words("b c d"), NGRAM)])
    assert {owner: items.tolist() for owner, items in found.items()} == {0: [0], 1: [0]}


@pytest.mark.parametrize("owners", [[], [[]], [[""], ["one two"]]])
def test_an_index_of_nothing_finds_nothing(tmp_path: Path, owners: list[list[str]]) -> None:
    (tmp_path / "index").mkdir()
    make_index(tmp_path, owners)
    words = split_words("one two three four")
    assert Matcher(tmp_path / "index", NGRAM).find(words) == []
    assert find_owners(tmp_path / "index", [ngram_hashes(words, NGRAM), np.empty(0, HASH)]) == [{}, {}]
