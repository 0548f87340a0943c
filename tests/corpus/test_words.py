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
        ("日本語、テ\nキスト", ["日本", "語", "テキスト"]),
        ("我用Python写代码。", ["我用", "python", "写代码"]),
        ("ｷﾛ を", split_words("キロを")),
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


HAN = [chr(code) for code in range(0x4E00, 0x5200)]
KANA = list("あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん")
THAI = [chr(code) for code in range(0x0E01, 0x0E2F)]


def written(characters: list[str], count: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(characters, k=count))


@pytest.mark.parametrize(("characters", "size"), [(HAN, 2), (KANA, 4), (THAI, 5)])
def test_what_is_written_without_spaces_is_cut_into_pieces_of_the_size_of_words(
    characters: list[str], size: int
) -> None:
    words = split_words(written(characters, 20_000, seed=1))
    assert max(map(len, words)) <= 2 * size
    assert 0.75 * size < 20_000 / len(words) < size


@given(st.sampled_from([HAN, KANA, THAI]), st.integers(0, 50), st.text(max_size=8), st.text(max_size=8))
@settings(deadline=None)
def test_a_passage_without_spaces_is_cut_alike_wherever_it_stands_and_however_it_is_wrapped(
    characters: list[str], seed: int, before: str, after: str
) -> None:
    passage = written(characters, 300, seed)
    inside = split_words(passage)[9:-9]  # up to where the first and last pieces end does what is beside them count
    lines = "\n".join(passage[start : start + 40] for start in range(0, len(passage), 40))
    for text in (
        f"{before}{passage}{after}",
        f"{before}{lines}。{after}",
        written(characters, 50, seed + 100) + passage,
    ):
        assert "\0".join(inside) in "\0".join(split_words(text))
