"""Whether tokens give back the bytes of their text, tried on documents: what a tokenizer loses no model can write."""

from collections.abc import Iterable
from typing import NamedTuple

from gpt.tokens.encoding import Encoding

_MOST_BYTES = 10**7
_SHOWN = 20  # characters on each side of the first difference


class RoundTrip(NamedTuple):
    documents: int
    lost: int
    "Documents whose tokens are other bytes."
    example: str
    "A piece of the first of these, and what became of it; empty if there is none."

    def __str__(self) -> str:
        if not self.lost:
            return f"gives back the bytes of all {self.documents:,} documents that were tried"
        return (
            f"does not give back the bytes of {self.lost:,} of {self.documents:,} documents that were tried, as {self.example};"
            " bits per byte are of the text all the same, but no model writes what its tokens cannot say"
        )


def try_round_trip(encoding: Encoding, documents: Iterable[str]) -> RoundTrip:
    """Encode documents of some 10 MB and decode them again. A space before the text is no loss: SentencePiece puts one there."""
    count = lost = size = 0
    example = ""
    for text in documents:
        tokens, data = encoding.encode_ordinary(text), text.encode()
        if encoding.decode_bytes(tokens) not in (data, b" " + data):
            lost += 1
            example = example or _difference(text, encoding.decode(tokens).removeprefix(" "))
        count += 1
        size += len(data)
        if size >= _MOST_BYTES:
            break
    return RoundTrip(count, lost, example)


def _difference(text: str, back: str) -> str:
    place = next((n for n, (one, other) in enumerate(zip(text, back, strict=False)) if one != other), len(back))
    before, after = (part[max(0, place - _SHOWN) : place + _SHOWN] for part in (text, back))
    return f"{before!r}, which becomes {after!r}"
