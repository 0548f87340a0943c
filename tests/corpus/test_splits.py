"""Splits as they were published: a source is train, validation or test, and its figures compare with others'."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt.corpus.splits import choose_split, split_text
from gpt.errors import UserError
from tests.corpus.test_prepare import SETTINGS, Corpus, jsonl, prose

TRAIN, VALIDATION, TEST = ([prose(60, seed) for seed in range(start, start + 20)] for start in (0, 100, 200))
GIVEN = {"wiki_valid": {"split": "validation"}, "wiki_test": {"split": "test"}, "wiki": {"split": "train"}}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    corpus = Corpus(tmp_path)
    for name, texts in (("wiki", TRAIN), ("wiki_valid", VALIDATION), ("wiki_test", TEST)):
        corpus.write({"a.jsonl": jsonl(*texts)}, source=name)
    return corpus


def given(**change: Any) -> Any:
    return SETTINGS.model_copy(update={"by_source": GIVEN} | change)


def test_a_source_is_the_split_that_it_was_published_as(corpus: Corpus) -> None:
    counts = corpus.prepare(given())
    splits = {split: sorted(texts) for split, texts in corpus.splits().items()}
    assert splits == {"train": sorted(TRAIN), "validation": sorted(VALIDATION), "test": sorted(TEST)}
    assert counts["test"]["by_source"].keys() == {"wiki_test"}


def test_fractions_divide_only_what_is_not_given(corpus: Corpus) -> None:
    """TinyStories' way: validation is given, test is cut from the rest, and validation gets nothing more."""
    corpus.prepare(given(by_source={"wiki_valid": {"split": "validation"}}, validation_fraction=0.0, test_fraction=0.3))
    splits = corpus.splits()
    assert sorted(splits["validation"]) == sorted(VALIDATION)
    assert sorted(splits["train"] + splits["test"]) == sorted(TRAIN + TEST)
    assert len(splits["test"]) > 3
    corpus.prepare(given(by_source={"wiki_valid": {"split": "validation"}}, test_fraction=0.3))
    assert set(corpus.splits()["validation"]) > set(VALIDATION)


def test_given_splits_are_whole_where_ends_are_held_out(corpus: Corpus) -> None:
    corpus.prepare(given(by_source={"wiki_test": {"split": "test"}, "wiki": {"split": "train"}}, hold_out="ends"))
    splits = corpus.splits()
    assert set(TEST) < set(splits["test"]) and set(TRAIN) < set(splits["train"])
    assert not set(VALIDATION) & set(splits["validation"]), "these are cut"
    assert all(any(text.endswith(end) for text in VALIDATION) for end in splits["validation"]), (
        "validation is the last part"
    )


def test_training_text_is_kept_clean_of_given_splits(corpus: Corpus) -> None:
    """Of the same text the held-out one stays, near copies go, and passages are cut."""
    leaks = [TEST[0], f"{TEST[1]} once more", f"{prose(60, 300)} {VALIDATION[2]} {prose(60, 301)}"]
    corpus.write({"b.jsonl": jsonl(*leaks)}, source="wiki")
    deduplicate = SETTINGS.deduplicate.model_copy(update={"minhash": True, "buckets": 14})
    decontaminate = SETTINGS.decontaminate.model_copy(update={"min_characters": 10})
    counts = corpus.prepare(given(deduplicate=deduplicate, decontaminate=decontaminate))
    splits = corpus.splits()
    assert sorted(splits["test"]) == sorted(TEST) and sorted(splits["validation"]) == sorted(VALIDATION)
    train = " | ".join(splits["train"])
    assert not any(text in train for text in (*TEST, *VALIDATION))
    assert prose(60, 300) in train and prose(60, 301) in train
    assert counts["dropped"]["exact_duplicate"]["documents"] == 1
    assert counts["dropped"]["near_duplicate"]["documents"] == 1
    assert counts["cut"]["documents"] == 1


def test_a_given_split_of_which_nothing_is_left_is_told(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": jsonl(*TEST[:3])}, source="wiki_valid")
    with pytest.raises(UserError) as caught:
        corpus.prepare(given())
    message = str(caught.value)
    assert "validation is empty: after what goes (exact duplicate 3; " in message
    assert "none of the documents of wiki_valid is left, which prepare.by_source gives as validation" in message


def test_a_fraction_of_0_leaves_a_text_whole() -> None:
    settings = SETTINGS.model_copy(update={"hold_out": "ends", "validation_fraction": 0.0, "test_fraction": 0.25})
    text = " ".join(map(str, range(4000)))
    parts = split_text(text, settings)
    assert [part.split for part in parts] == ["train", "test"]
    assert "".join(part.text for part in parts) == text
    assert all(choose_split(number.to_bytes(32, "big"), settings) != "validation" for number in range(1000))


def test_metrics_do_not_speak_of_what_is_off(corpus: Corpus) -> None:
    corpus.prepare(given())
    assert "masked" not in json.loads(corpus.metrics.read_text())
    clean = SETTINGS.clean.model_copy(update={"mask_personal_data": True})
    corpus.write({"b.jsonl": jsonl("write to ann@example.org")}, source="wiki")
    assert corpus.prepare(given(clean=clean))["masked"] == {"email": 1, "ip": 0, "phone": 0}
    assert "write to email@example.com" in corpus.splits()["train"]
    assert b"ann@" not in b"".join(path.read_bytes() for path in corpus.output.iterdir()), "nor in what people look at"
