"""Words and word n-grams as documents are compared by them: in lower case, without accents and punctuation.

Deduplication and decontamination see the same words, so a leak that was re-cased, re-punctuated or re-wrapped is a leak.
"""

import re
import unicodedata
from functools import cache

import numpy as np
import regex
import xxhash

_ASCII = re.compile(r"[a-z0-9]+")
# A word is a run of letters, marks and digits; scripts that put no spaces between words count by character.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_UNICODE = regex.compile(rf"{_UNSPACED}\p{{M}}*+|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]++", regex.V1)
_ACCENTS = re.compile("[\u0300-\u036f]+")
_RUN = re.compile(r"\S+")
_REMEMBERED = 1 << 20  # words; some 100 MB


def split_words(text: str) -> list[str]:
    """Return the normalised words of a text."""
    return _ASCII.findall(text.lower()) if text.isascii() else _UNICODE.findall(_normalise(text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) in the text, in characters, of every word of `split_words`."""
    if text.isascii():
        return [match.span() for match in _ASCII.finditer(text.lower())]
    spans = []
    for run in _RUN.finditer(text):  # no word goes across a space
        if run[0].isascii():
            spans += [(run.start() + start, run.start() + end) for start, end in word_spans(run[0])]
            continue
        # A character may become none or several; both ends of a word are looked up in where its characters came from.
        pieces = [_normalise(character) for character in run[0]]
        origin = [place for place, piece in enumerate(pieces, run.start()) for _ in piece]
        spans += [(origin[word.start()], origin[word.end() - 1] + 1) for word in _UNICODE.finditer("".join(pieces))]
    return spans


def ngram_hashes(words: list[str], n: int) -> np.ndarray:
    """Return a hash of every n words in a row: (max(0, len(words) - n + 1),) uint64.

    A sum of the words' own hashes, each times an odd number of its place (multilinear hashing), computed for all
    n-grams at once.
    """
    count = len(words) - n + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    if len(_HASHES) > _REMEMBERED:
        _HASHES.clear()
    hashes = np.fromiter(map(_HASHES.__getitem__, words), dtype=np.uint64, count=len(words))
    total = np.zeros(count, dtype=np.uint64)
    for place, factor in enumerate(_factors(n)):
        total += hashes[place : place + count] * factor
    return total ^ (total >> np.uint64(29))


def _normalise(text: str) -> str:
    return _ACCENTS.sub("", unicodedata.normalize("NFKD", text).casefold())


@cache
def _factors(n: int) -> np.ndarray:
    return np.random.Philox(key=n).random_raw(n).astype(np.uint64) | np.uint64(1)


class _Hashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        value = self[word] = xxhash.xxh64_intdigest(word)
        return value


_HASHES = _Hashes()
