"""Words and word n-grams as documents are compared by them: in lower case, without accents and punctuation.

Deduplication and decontamination see the same words, so a leak that was re-cased, re-punctuated or re-wrapped is a leak.

Scripts that put no spaces between words are cut into pieces that hold about as much as a word of English, since thirteen characters
of Chinese are a name and no passage. Where they are cut the characters alone decide (content-defined chunking, Muthitacharoen et
al. 2001): no dictionary or model has a say, and a passage is cut at the same places wherever it is copied to.
"""

import re
import unicodedata
from functools import cache

import numpy as np
import regex
import xxhash

_ASCII = re.compile(r"[a-z0-9]+")
# One character in so many ends a piece. Chosen on messages of free software and their translations (zh 14,500, ja 14,500, th 2,000,
# km 700, my 1,000): thirteen pieces hold what 12.7, 12.6, 13.8, 10.3 and 11.3 words of English do; they have 21 characters in
# Chinese, 36 in Japanese, 69 in Thai.
_PIECES = {
    2: r"\p{Han}",
    4: r"\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Myanmar}\u30FC",  # U+30FC, a long vowel, is of no script to Unicode
    5: r"\p{Thai}\p{Lao}\p{Khmer}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}",
}
_SIZES = {size: regex.compile(f"[{scripts}]") for size, scripts in _PIECES.items()}
_UNSPACED = f"[{''.join(_PIECES.values())}]"
# All of them, and some others: a quick "no" for most texts.
_PERHAPS_UNSPACED = re.compile("[\u0e00-\u1cff\u2e80-\U0010ffff]")
_SPACED = regex.compile(r"[\p{L}\p{M}\p{N}]++")
# A word is a run of letters, marks and digits, or one character of an unspaced script with its marks.
_UNICODE = regex.compile(rf"{_UNSPACED}\p{{M}}*+|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]++", regex.V1)
_ACCENTS = re.compile("[\u0300-\u036f]+")
_RUN = re.compile(r"\S+")
_REMEMBERED = 1 << 20  # words; some 100 MB


def split_words(text: str) -> list[str]:
    """Return the normalised words of a text, and pieces of what is written without spaces."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    if not _PERHAPS_UNSPACED.search(normalised := _normalise(text)):
        return _SPACED.findall(normalised)
    words = _UNICODE.findall(normalised)
    return ["".join(words[first:last]) for first, last in _pieces(words)]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) in the text, in characters, of every word of `split_words`."""
    if text.isascii():
        return [match.span() for match in _ASCII.finditer(text.lower())]
    words, spans = list[str](), list[tuple[int, int]]()
    for run in _RUN.finditer(text):  # no word goes across a space, but for pieces
        # A character may become none or several; both ends of a word are looked up in where its characters came from.
        pieces = [run[0].lower()] if run[0].isascii() else [_normalise(character) for character in run[0]]
        origin = range(run.start(), run.end())
        if not run[0].isascii():
            origin = [place for place, piece in enumerate(pieces, run.start()) for _ in piece]
        for word in _UNICODE.finditer("".join(pieces)):
            words.append(word[0])
            spans.append((origin[word.start()], origin[word.end() - 1] + 1))
    return [(spans[first][0], spans[last - 1][1]) for first, last in _pieces(words)]


def _pieces(words: list[str]) -> list[tuple[int, int]]:
    """Return (first, last + 1) of the words that are one each: spaced ones alone, characters of unspaced scripts together.

    A piece ends after a character whose code point its script's size divides, which is one in so many, and at the latest when it is
    twice as long. Punctuation and line ends do not count.
    """
    found, first = list[tuple[int, int]](), 0
    for place, word in enumerate(words):
        size = _size(word[0])
        if not size and first < place:
            found.append((first, place))
            first = place
        if not size or ord(word[0]) % size == 0 or place - first + 1 == 2 * size:
            found.append((first, place + 1))
            first = place + 1
    return found if first == len(words) else [*found, (first, len(words))]


@cache
def _size(character: str) -> int:
    """Return the size of pieces of this character's script; 0 if it has spaces between words."""
    return next((size for size, script in _SIZES.items() if script.match(character)), 0)


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
