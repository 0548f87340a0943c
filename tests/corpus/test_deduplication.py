import hashlib
import random
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.corpus.deduplication import (
    EXACT,
    NEAR,
    ChooseRemoved,
    FindPairs,
    MinHash,
    Sign,
    bucket_names,
    removed_documents,
)
from gpt.params.corpus import Deduplicate

SETTINGS = Deduplicate(exact=True, minhash=True, ngram=5, buckets=14, hashes=8, seed=1)
TEST, VALIDATION, TRAIN = range(3)


@dataclass(frozen=True)
class Text:
    text: str
    split: int = TRAIN
    source: int = 0


def prose(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices([f"word{number}" for number in range(500)], k=words))


def replace_words(text: str, count: int) -> str:
    """Return the text with so many words, evenly spread, replaced."""
    words = text.split()
    for number in range(count):
        words[(2 * number + 1) * len(words) // (2 * count)] = f"other{number}"
    return " ".join(words)


def flags(folder: Path, shards: list[list[Text]], change: Deduplicate = SETTINGS, parts: int = 1) -> list[list[int]]:
    """Return what happens to each document of each shard: 0 if it stays, else EXACT or NEAR."""
    for rank, shard in enumerate(shards):
        documents = (
            Document(
                text=text.text,
                id="",
                metadata={
                    "digest": hashlib.sha256(text.text.encode()).digest(),
                    "split": text.split,
                    "source": text.source,
                },
            )
            for text in shard
        )
        assert [document.text for document in Sign(change, folder).run(documents, rank)] == [
            text.text for text in shard
        ]
    buckets = bucket_names(change)
    for task in range(len(buckets)):
        list(FindPairs(buckets, folder, parts).run(rank=task, world_size=len(buckets)))
    list(ChooseRemoved(change, folder).run())
    return [removed_documents(folder, rank).tolist() for rank in range(len(shards))]


def kept(folder: Path, shards: list[list[Text]], change: Deduplicate = SETTINGS) -> list[Text]:
    found = flags(folder, shards, change)
    return [
        text
        for shard, removed in zip(shards, found, strict=True)
        for text, flag in zip(shard, removed, strict=True)
        if not flag
    ]


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["a", "b b", "", "?", "é"]), st.integers(0, 2), st.integers(0, 2)), max_size=6
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(deadline=None, max_examples=60)
def test_of_the_same_texts_just_the_one_that_comes_first_stays(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[tuple[str, int, int]]]
) -> None:
    texts = [[Text(*item) for item in shard] for shard in shards]
    stay = kept(tmp_path_factory.mktemp("dedup"), texts)
    everything = [text for shard in texts for text in shard]
    assert sorted(text.text for text in stay) == sorted({text.text for text in everything})
    for text in stay:
        assert (text.split, text.source) == min(
            (other.split, other.source) for other in everything if other.text == text.text
        )


def test_nearly_the_same_text_goes_and_another_stays(tmp_path: Path) -> None:
    text = prose(300, seed=0)
    shards = [[Text(text), Text(prose(300, seed=1))], [Text(replace_words(text, 3)), Text(replace_words(text, 60))]]
    found = flags(tmp_path, shards)
    assert sorted([found[0][0], found[1][0]]) == [0, NEAR]
    assert found[0][1] == 0
    assert found[1][1] == 0, "every fifth word is another: no shingle is the same"


def test_what_judges_stays_and_what_trains_goes(tmp_path: Path) -> None:
    text = prose(200, seed=0)
    train, validation, test = (
        Text(text, TRAIN),
        Text(replace_words(text, 1), VALIDATION, 1),
        Text(text + " end", TEST, 2),
    )
    assert kept(tmp_path, [[train], [validation, test]]) == [test]


def test_a_chain_of_near_duplicates_is_one_cluster(tmp_path: Path) -> None:
    """The ends of the chain are not alike, but each link is."""
    words = [f"word{number}" for number in range(1000)]
    chain = [Text(" ".join(words[start : start + 600])) for start in range(0, 300, 30)]
    found = flags(tmp_path, [chain])[0]
    assert sorted(found) == [0] + [NEAR] * (len(chain) - 1)


def test_copies_of_a_near_duplicate_count_as_copies(tmp_path: Path) -> None:
    text = prose(200, seed=0)
    near = Text(replace_words(text, 1))
    found = flags(tmp_path, [[Text(text, TEST), near, near, Text(text)]])[0]
    assert (found[0], found[3]) == (0, EXACT)
    assert sorted(found[1:3]) == [EXACT, NEAR]


@pytest.mark.parametrize("parts", [1, 7])
def test_which_texts_stay_depends_neither_on_shards_nor_on_their_order_nor_on_parts(tmp_path: Path, parts: int) -> None:
    choose = random.Random(0)
    originals = [prose(80, seed) for seed in range(30)]
    texts = [
        Text(
            replace_words(choose.choice(originals), choose.choice([0, 0, 1])), choose.randrange(3), choose.randrange(3)
        )
        for _ in range(90)
    ]
    outcomes = set()
    for trial in range(4):
        choose.shuffle(texts)
        count = choose.randint(1, 5)
        shards = [texts[number::count] for number in range(count)]
        found = flags(tmp_path / str(trial), shards, parts=parts)
        outcomes.add(
            frozenset(
                text
                for shard, removed in zip(shards, found, strict=True)
                for text, flag in zip(shard, removed, strict=True)
                if not flag
            )
        )
    assert len(outcomes) == 1
    assert len(outcomes.pop()) <= len(originals)


@pytest.mark.parametrize(
    ("exact", "minhash", "expected"),
    [(True, False, [0, EXACT, 0]), (False, False, [0, 0, 0]), (False, True, [0, NEAR, NEAR])],
)
def test_each_kind_can_be_turned_off(tmp_path: Path, exact: bool, minhash: bool, expected: list[int]) -> None:
    text = prose(200, seed=0)
    change = SETTINGS.model_copy(update={"exact": exact, "minhash": minhash})
    assert flags(tmp_path, [[Text(text, TEST), Text(text), Text(replace_words(text, 1))]], change)[0] == expected


def test_texts_shorter_than_a_shingle_are_compared_whole(tmp_path: Path) -> None:
    found = flags(tmp_path, [[Text("to be", TEST), Text("To be!"), Text("or not"), Text("?!", TEST), Text("...")]])
    assert found == [[0, NEAR, 0, 0, 0]]


@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.9])
def test_signatures_agree_as_often_as_the_sets_are_alike(similarity: float) -> None:
    """The definition of MinHash: P(agree) = s ** hashes; the bound is four standard errors."""
    settings = Deduplicate(exact=False, minhash=True, ngram=1, buckets=400, hashes=3, seed=5)
    minhash = MinHash(settings)
    shared = 400
    own = round(shared * (1 - similarity) / similarity / 2)
    agree = []
    for trial in range(10):
        both = [f"{trial}s{number}" for number in range(shared)]
        first, second = (minhash.sign(both + [f"{trial}{side}{number}" for number in range(own)]) for side in "ab")
        agree.append(np.mean(first == second))
    expected = (shared / (shared + 2 * own)) ** settings.hashes
    error = (expected * (1 - expected) / (10 * settings.buckets)) ** 0.5
    assert np.mean(agree) == pytest.approx(expected, abs=4 * error)


def test_a_long_text_is_signed_in_little_memory() -> None:
    words = prose(400_000, seed=0).split()
    MinHash(SETTINGS).sign(words[:100])
    tracemalloc.start()
    MinHash(SETTINGS).sign(words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6, "all shingles by all hashes at once would be 358 MB"


def test_another_seed_finds_others() -> None:
    words = prose(100, seed=0).split()
    first, second = (MinHash(SETTINGS.model_copy(update={"seed": seed})).sign(words) for seed in (1, 2))
    assert not (first == second).any()
    assert (first == MinHash(SETTINGS).sign(words)).all()
