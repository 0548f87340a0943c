import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.corpus.words import ngram_hashes, split_words, word_spans


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("To be, or not -- to BE?", ["to", "be", "or", "not", "to", "be"]),
        ("don't _stop_ snake_case", ["don", "t", "stop", "snake", "case"]),
        ("Café naïve Ångström ﬁne", ["cafe", "naive", "angstrom", "fine"]),
        ("Straße İstanbul", ["strasse", "istanbul"]),
        ("日本語 テキスト", ["日", "本", "語", "テ", "キ", "ス", "ト"]),
        ("abcテ1", ["abc", "テ", "1"]),
        ("हिन्दी 한국어", ["हिन्दी", unicodedata.normalize("NFKD", "한국어")]),
        ("1,000 ½", ["1", "000", "1", "2"]),
        (" \n—!", []),
    ],
)
def test_words_are_what_is_left_without_case_accents_and_punctuation(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text() | st.text("aé ıİßﬁ№½日デ한हि\u0301\u3099.,_'A1"))
@settings(max_examples=500)
def test_every_word_has_its_span(text: str) -> None:
    words, spans = split_words(text), word_spans(text)
    assert len(words) == len(spans)
    ends = [0]
    for word, (start, end) in zip(words, spans, strict=True):
        assert 0 <= start < end <= len(text)
        assert word in "".join(split_words(text[start:end]))
        assert start >= ends[-1] - 1, "one character may become two words"
        ends.append(end)


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(1, 6))
def test_hashes_are_equal_where_the_words_are(words: list[str], n: int) -> None:
    hashes = ngram_hashes(words, n)
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    assert len(hashes) == len(grams)
    assert len(set(hashes.tolist())) == len(set(grams))


def test_hashes_do_not_depend_on_what_was_hashed_before() -> None:
    words = [str(random.Random(0).random()) for _ in range(50)]
    before = ngram_hashes(words, 5)
    ngram_hashes([str(number) for number in range(1 << 20)], 1)  # more than are remembered
    ngram_hashes(["another"], 1)
    assert np.array_equal(ngram_hashes(words, 5), before)
