import hashlib
import json
import random
import tracemalloc
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.corpus.deduplication.choice import EXACT, NEAR, ChooseRemoved, copy_numbers, removed_documents
from gpt.corpus.deduplication.numbering import class_of
from gpt.corpus.deduplication.pairs import FindPairs
from gpt.corpus.deduplication.signatures import MinHash, Sign, bucket_names, signature_type
from gpt.corpus.words import split_words
from gpt.params.corpus import Deduplicate

SETTINGS = Deduplicate(exact=True, minhash=True, ngram=5, buckets=14, hashes=8, seed=1)
TEST, VALIDATION, TRAIN = range(3)
LITTLE = 20 * 256 / 2**30  # for twenty values at once


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


def flags(
    folder: Path, shards: list[list[Text]], change: Deduplicate = SETTINGS, memory_gb: float = 1.0
) -> list[list[int]]:
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
        list(FindPairs(buckets, folder, memory_gb).run(rank=task, world_size=len(buckets)))
    list(ChooseRemoved(change, folder, memory_gb).run())
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
    assert kept(tmp_path, [[train], [validation, test]]) == [validation, test]


def near(text: str, split: int, source: int, number: int) -> Text:
    """Return a near copy of a text: another first and last word."""
    return Text(f"first{number} {text} last{number}", split, source)


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_documents_that_are_added_take_no_held_out_one_away(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is added: nearer to the front of the order, in test, between two that were not connected before."""
    originals = [prose(60, seed) for seed in range(3)]
    draw = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3), st.integers(0, 5))
    choices = data.draw(st.lists(draw, min_size=2, max_size=14))
    texts = []
    for which, split, source, number in choices:
        text = originals[which] if which < 3 else f"{originals[number % 3]} {originals[(number + 1) % 3]}"
        texts.append(near(text, hash((which, number)) % 3 if split else TRAIN, source, number))
    count = data.draw(st.integers(1, len(texts) - 1))
    before = {text.text for text in kept(tmp_path_factory.mktemp("before"), [texts[:count]]) if text.split != TRAIN}
    after = kept(tmp_path_factory.mktemp("after"), [texts[count:], texts[:count]])
    assert before <= {text.text for text in after if text.split != TRAIN}


def test_a_training_text_that_is_near_a_held_out_one_goes_though_others_stand_between(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(1000)]
    links = [Text(" ".join(words[start : start + 600])) for start in range(0, 300, 30)]
    judge = Text(" ".join(words[300:900]), VALIDATION, 9)
    assert kept(tmp_path, [links, [judge]]) == [judge]


def test_near_copies_among_what_judges_are_counted(tmp_path: Path) -> None:
    text, other = prose(200, seed=0), prose(200, seed=1)
    judges = [near(text, TEST, 0, 0), near(text, TEST, 1, 1), near(text, VALIDATION, 0, 2), Text(other, VALIDATION)]
    assert kept(tmp_path, [[*judges, near(text, TRAIN, 0, 3), Text(other, VALIDATION)]]) == judges
    assert json.loads((tmp_path / "near_copies.json").read_text()) == {"test": 1, "validation": 1}


@dataclass
class Oracle:
    """What stays, by union-find in a dictionary over all pairs that share a signature."""

    change: Deduplicate

    def flags(self, texts: list[Text]) -> list[int]:
        parent = list(range(len(texts)))

        def find(number: int) -> int:
            while parent[number] != number:
                number = parent[number]
            return number

        minhash, seen = MinHash(self.change), dict[tuple[int, int], int]()
        digests = [hashlib.sha256(text.text.encode()).digest() for text in texts]
        for number, text in enumerate(texts):
            words = split_words(text.text)
            half = int.from_bytes(digests[number][8:16], "big")
            for bucket, value in enumerate(minhash.sign(words).tolist() if words else [half] * self.change.buckets):
                parent[find(number)] = find(seen.setdefault((bucket, value), number))
        order = sorted(range(len(texts)), key=lambda n: (texts[n].split, texts[n].source, digests[n][:8], n))
        stays, had, found = set[int](), set[str](), [0] * len(texts)
        for number in order:
            text, cluster = texts[number], find(number)
            if text.text in had:
                found[number] = EXACT if self.change.exact else NEAR
            elif cluster in stays and text.split == TRAIN:
                found[number] = NEAR
            had.add(text.text)
            stays.add(cluster)
        return found


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("memory_gb", [1.0, 200 * 256 / 2**30, LITTLE])
def test_what_goes_is_what_a_plain_search_finds_however_little_memory_there_is(
    tmp_path: Path, memory_gb: float, exact: bool
) -> None:
    choose = random.Random(1)
    originals = [prose(60, seed) for seed in range(25)]
    texts = [
        Text(
            replace_words(choose.choice(originals), choose.choice([0, 0, 1, 1])),
            choose.randrange(3),
            choose.randrange(3),
        )
        for _ in range(250)
    ]
    texts += [Text("?!", TRAIN), Text("", TRAIN), Text("?!", TRAIN), Text("...", TRAIN)]
    shards = [texts[start : start + 64] for start in range(0, len(texts), 64)]
    change = SETTINGS.model_copy(update={"exact": exact, "buckets": 6})
    assert [*chain.from_iterable(flags(tmp_path, shards, change, memory_gb))] == Oracle(change).flags(texts)
    assert not (tmp_path / "clusters").exists(), "what was sorted on the way is gone"


def test_copies_that_stay_are_numbered(tmp_path: Path) -> None:
    change = SETTINGS.model_copy(update={"exact": False, "minhash": False})
    shards = [[Text("a", TRAIN, 1), Text("b"), Text("a", TRAIN, 0)], [Text("a"), Text("c"), Text("b")]]
    for memory_gb in (1.0, 2 * 256 / 2**30):
        assert flags(tmp_path / str(memory_gb), shards, change, memory_gb) == [[0] * 3] * 2
        numbers = [copy_numbers(tmp_path / str(memory_gb), shard).tolist() for shard in range(2)]
        assert numbers == [[2, 0, 0], [1, 0, 1]], "by source, then in order"


def test_a_signature_that_more_documents_have_than_fit_in_memory_is_read_a_shard_at_a_time(tmp_path: Path) -> None:
    """As of the page that a server sends for every address that it does not know."""
    shards = [[Text("not found"), Text(f"page {shard}"), Text("Not found!"), Text("not found")] for shard in range(30)]
    found = flags(tmp_path, shards, memory_gb=LITTLE)
    assert sum(flag == 0 for shard in found for flag in shard) == 1 + 30
    first = min((hashlib.sha256(text.encode()).digest()[:8], text) for text in ("not found", "Not found!"))[1]
    assert [text for text in kept(tmp_path / "again", shards) if "page" not in text.text] == [Text(first)]


@pytest.mark.parametrize("memory_gb", [256 * 50_000 / 2**30])
def test_pairs_and_clusters_take_the_memory_that_they_are_given(tmp_path: Path, memory_gb: float) -> None:
    """Half a million documents, half of them copies: in memory at once they would take twenty times as much."""
    numbers = np.random.default_rng(0)
    change = SETTINGS.model_copy(update={"exact": False, "buckets": 1})
    count, shards = 25_000, 20
    for shard in range(shards):
        name = f"{shard:05d}"
        for bucket in bucket_names(change):
            records = np.empty(count, signature_type(bucket))
            records["signature"] = numbers.integers(0, count * shards // 2, count)
            records["document"] = np.arange(count)
            if bucket == "exact":
                records["signature"] = np.arange(count) + shard * count
                records["digest"] = 0
            records = records[np.argsort(records["signature"], kind="stable")]
            (tmp_path / bucket).mkdir(exist_ok=True)
            records.tofile(tmp_path / bucket / name)
        for kind, values in (
            ("positions", np.arange(count, dtype="<u4")),
            ("digests", numbers.integers(0, 2**63, count)),
        ):
            (tmp_path / kind).mkdir(exist_ok=True)
            values.tofile(tmp_path / kind / name)
        (tmp_path / "numbers").mkdir(exist_ok=True)
        (tmp_path / "numbers" / f"{name}.json").write_text(json.dumps({str(class_of(TRAIN, 0)): count}))
    tracemalloc.start()
    for task in range(2):
        list(FindPairs(bucket_names(change), tmp_path, memory_gb).run(rank=task))
    list(ChooseRemoved(change, tmp_path, memory_gb).run())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    removed = sum(np.count_nonzero(removed_documents(tmp_path, shard)) for shard in range(shards))
    assert 0.5 < removed / (count * shards) < 0.6, "of n draws from n / 2 values as many repeat one as come"
    assert peak < memory_gb * 2**30


def test_a_chain_of_near_duplicates_is_one_cluster(tmp_path: Path) -> None:
    """The ends of the chain are not alike, but each link is."""
    words = [f"word{number}" for number in range(1000)]
    links = [Text(" ".join(words[start : start + 600])) for start in range(0, 300, 30)]
    found = flags(tmp_path, [links])[0]
    assert sorted(found) == [0] + [NEAR] * (len(links) - 1)


def test_copies_of_a_near_duplicate_count_as_copies(tmp_path: Path) -> None:
    text = prose(200, seed=0)
    near = Text(replace_words(text, 1))
    found = flags(tmp_path, [[Text(text, TEST), near, near, Text(text)]])[0]
    assert (found[0], found[3]) == (0, EXACT)
    assert sorted(found[1:3]) == [EXACT, NEAR]


@pytest.mark.parametrize("memory_gb", [1.0, LITTLE])
def test_which_texts_stay_depends_neither_on_shards_nor_on_their_order_nor_on_memory(
    tmp_path: Path, memory_gb: float
) -> None:
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
        found = flags(tmp_path / str(trial), shards, memory_gb=memory_gb)
        outcomes.add(
            frozenset(
                text
                for shard, removed in zip(shards, found, strict=True)
                for text, flag in zip(shard, removed, strict=True)
                if not flag
            )
        )
    assert len(outcomes) == 1
    assert sum(text.split == TRAIN for text in outcomes.pop()) < len(originals)


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
