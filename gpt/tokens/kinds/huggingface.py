"""A tokenizer of Hugging Face's `tokenizers` library: what its tokenizer.json says, as an `Encoding`.

Byte-level BPE as GPT-2's gives back every text. SentencePiece's kinds (BPE with bytes to fall back on, Unigram) put a space before
a text and write ▁ for spaces; some normalise, and then do not give it back as it was. No text becomes a special token, not even
where a file's own vocabulary would take its name for a word.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from gpt.errors import UserError

HINT = "name a tokenizer.json as `tokenizers` or transformers save it"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def byte_alphabet() -> dict[int, str]:
    """Return GPT-2's character for each byte: itself where it is printable, else one from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + number) for number, byte in enumerate(hidden)}


_BYTES = {letter: byte for byte, letter in byte_alphabet().items()}


def add_special_tokens(file: Path, end_of_text: str, names: Sequence[str]) -> str:
    """Return tokenizer.json's text with `names` as further special tokens, after all others; so is `end_of_text`, if it is new.

    Nothing is cut or padded any more. Raises `UserError` if the file is none, its ids have gaps, or a name is taken.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # SentencePiece's own tokenizer.model among others
        raise UserError(f"{file}: not a tokenizer.json, but no text at all; {HINT}") from None
    tokenizer = _parse(text, file)
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    for expected, found in enumerate(ids):
        if found != expected:
            what = "no token has" if found > expected else "two tokens have"
            raise UserError(
                f"{file}: its {len(ids)} ids are not 0, 1, 2, … each once: {what} id {min(found, expected)}; {HINT}"
            )
    if taken := [name for name in names if tokenizer.token_to_id(name) is not None]:
        raise UserError(
            f"params.yaml: tokenizer.special_tokens: {taken[0]} is a token of {file} already; take it out of the list"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    new = [name for name in (end_of_text, *names) if tokenizer.token_to_id(name) is None]
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in (end_of_text, *names)]
    )
    assert [tokenizer.token_to_id(name) for name in new] == list(range(len(ids), len(ids) + len(new)))
    return tokenizer.to_str(pretty=True) + "\n"


def describe(text: str, file: Path, end_of_text: str) -> dict[str, Any]:
    """Return special tokens with their ids and the size of the vocabulary of what `add_special_tokens` returned."""
    encoding = HuggingFaceEncoding("", text, file, end_of_text)
    special = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
    return {
        "special_tokens": dict(sorted(special.items(), key=lambda entry: entry[1])),
        "vocab_size": encoding.n_vocab,
    }


class HuggingFaceEncoding:
    """An `Encoding` of a tokenizer.json's `text`; raises `UserError` if it is none, or has no token `end_of_text`."""

    def __init__(self, name: str, text: str, file: Path, end_of_text: str) -> None:
        self.name = name
        self._tokenizer = _parse(text, file)
        self._tokenizer.encode_special_tokens = True  # that is: as text. It is not in the file
        state = json.loads(text)
        unknown = _unknown_token(state["model"])
        self._special = {
            token.content: number
            for number, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special and token.content != unknown and not _BYTE.fullmatch(token.content)
        }
        self._names = {number: content for content, number in self._special.items()}
        if end_of_text not in self._special:
            raise UserError(f"{file}: has no special token {end_of_text}; {HINT}")
        self._end_of_text, self._n_vocab = self._special[end_of_text], self._tokenizer.get_vocab_size()
        self._added = {
            number: token.content
            for number, token in self._tokenizer.get_added_tokens_decoder().items()
            if not _BYTE.fullmatch(token.content)
        }
        parts = [state[part] for part in ("normalizer", "pre_tokenizer", "decoder")]
        self._is_byte_level = any(name == "ByteLevel" for name in _types(parts))
        self._has_bytes = any(name == "ByteFallback" for name in _types(parts))
        self._text_of = lru_cache(None)(self._bytes_of)

    @property
    def n_vocab(self) -> int:
        return self._n_vocab

    @property
    def eot_token(self) -> int:
        return self._end_of_text

    @property
    def special_tokens_set(self) -> set[str]:
        return set(self._special)

    def encode_ordinary(self, text: str) -> list[int]:
        return self._encode(text)[0]

    def encode_to_numpy(self, text: str, *, disallowed_special: Collection[str] = ()) -> np.ndarray:
        assert not disallowed_special, "special tokens are text"
        return np.array(self._encode(text)[0], np.uint32)

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """Return a text's tokens, and for each how many of the text's characters it and those before it stand for."""
        return self._encode(text)

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        name = text_or_bytes if isinstance(text_or_bytes, str) else text_or_bytes.decode()
        number = self._tokenizer.token_to_id(name)
        if number is None:
            raise KeyError(text_or_bytes)
        return number

    def decode(self, tokens: Sequence[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        return b"".join(self._text_of(int(token)) for token in tokens)

    def decode_single_token_bytes(self, token: int) -> bytes:
        return self._text_of(int(token))

    def _encode(self, text: str) -> tuple[list[int], list[int]]:
        found = self._tokenizer.encode(text, add_special_tokens=False)
        ids, ends = found.ids, [end for _, end in found.offsets]
        if found_names := self._names.keys() & set(ids):
            ids, ends = self._encode_around(text, [self._names[number] for number in found_names])
        return ids, np.maximum.accumulate(ends).tolist() if ends else []

    def _encode_around(self, text: str, names: list[str]) -> tuple[list[int], list[int]]:
        """Encode a text in pieces none of which holds one of these names; what becomes a special token even so is left out."""
        ids: list[int] = []
        ends: list[int] = []
        spelled = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        for start, piece in _cut(text, [match.start() + 1 for match in spelled.finditer(text)]):
            found = self._tokenizer.encode(piece, add_special_tokens=False)
            for number, (_, end) in zip(found.ids, found.offsets, strict=True):
                if number not in self._names:
                    ids.append(number)
                    ends.append(start + end)
        return ids, ends

    def _bytes_of(self, token: int) -> bytes:
        """Return what a token adds to a text that came before it."""
        content = self._added.get(token)
        if content is not None:
            return content.encode()
        content = self._tokenizer.id_to_token(token)
        if content is None:
            raise KeyError(token)
        if self._is_byte_level and all(letter in _BYTES for letter in content):
            return bytes(_BYTES[letter] for letter in content)
        if self._has_bytes and (byte := _BYTE.fullmatch(content)):
            return bytes([int(byte[1], 16)])
        decoder: Any = self._tokenizer.decoder  # after a letter: what begins a text may lose its space
        return (decoder.decode(["a", content])[1:] if decoder else f" {content}").encode()


def _parse(text: str, file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower one
        raise UserError(f"{file}: not a tokenizer.json ({' '.join(str(error).split())[:200]}); {HINT}") from None


def _unknown_token(model: dict[str, Any]) -> str | None:
    if (number := model.get("unk_id")) is not None:
        return model["vocab"][number][0]
    return model.get("unk_token")


def _types(value: Any) -> Iterator[str]:
    """Yield the types of all parts of a tokenizer.json's section."""
    if isinstance(value, dict):
        if isinstance(name := value.get("type"), str):
            yield name
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _types(part)


def _cut(text: str, places: list[int]) -> Iterator[tuple[int, str]]:
    """Yield the pieces between places of a text, each with where it begins."""
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        if end > start:
            yield start, text[start:end]
