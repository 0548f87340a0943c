"""The three splits, and what of a document belongs to which: its text alone decides, so adding data moves nothing."""

import hashlib
from typing import NamedTuple

import regex

from gpt.params.corpus import Prepare

SPLITS = ("train", "validation", "test")
_NEAR = 2000  # characters: a text is cut where a line or a word ends, if one does so near
_CHARACTER = regex.compile(r"\X")  # with its marks and joiners: what a reader takes for one


class Part(NamedTuple):
    """What a document gives to a split."""

    split: str
    text: str
    digest: bytes
    "SHA-256 of the text."


def split_text(text: str, settings: Prepare, given: str = "auto") -> list[Part]:
    """Return what a text gives to the splits: all of it to the `given` one or to that of its hash, or each end to another.

    The ends are in the order train, test, validation: validation is the last part, as in nanoGPT's Shakespeare.
    """
    if given != "auto" or settings.hold_out == "documents":
        digest = _digest(text)
        return [Part(choose_split(digest, settings) if given == "auto" else given, text, digest)]
    test = _cut_near(text, 1 - settings.validation_fraction - settings.test_fraction)
    validation = max(test, _cut_near(text, 1 - settings.validation_fraction))
    parts = zip(("train", "test", "validation"), (text[:test], text[test:validation], text[validation:]), strict=True)
    return [Part(split, part, _digest(part)) for split, part in parts if part.strip()]


def choose_split(digest: bytes, settings: Prepare) -> str:
    """Return the split of a document from the SHA-256 of its text: a fixed place in [0, 1) decides."""
    salted = hashlib.sha256(f"{settings.split_seed}:".encode() + digest).digest()
    place = int.from_bytes(salted[:8], "big") / 2**64
    if place < settings.test_fraction:
        return "test"
    return "validation" if place < settings.test_fraction + settings.validation_fraction else "train"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _cut_near(text: str, share: float) -> int:
    """Return a place with about that share of the text before it: behind a line, a word, or else a whole character."""
    place = round(share * len(text))
    if place >= len(text):
        return len(text)
    for found in (text.find("\n", place, place + _NEAR), text.find(" ", place, place + _NEAR),
                  text.rfind(" ", max(0, place - _NEAR), place)):  # fmt: skip
        if found >= 0:
            return found + 1
    characters = _CHARACTER.finditer(text, max(0, place - _NEAR))
    return next((match.end() for match in characters if match.end() >= place), len(text))
