"""What a tokenizer can do, whichever library it is of: the part of `tiktoken.Encoding` that is used here.

A text goes on where the one before it ended: `decode_bytes` of tokens is their bytes one after the other, so that pieces of a text
that come one by one add up to it.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

CHAT_TEMPLATE = "chat_template.jinja"
"Where the folder of a model's tokenizer keeps how conversations become text, by the name that transformers gives it."
CHAT_ENDS = ("<|end|>", "<|im_end|>")
"Special tokens that end a turn, of the templates there are."


def chat_end(template: str, encoding: "Encoding") -> str | None:
    """Return the special token with which a chat template ends an answer; None if that is the end of a document."""
    return next((name for name in CHAT_ENDS if name in template and name in encoding.special_tokens_set), None)


def special_ids(encoding: "Encoding") -> frozenset[int]:
    """Return the ids of the special tokens."""
    return frozenset(encoding.encode_single_token(name) for name in encoding.special_tokens_set)


class Encoding(Protocol):
    name: str

    @property
    def n_vocab(self) -> int:
        """Ids are 0 … n_vocab - 1, special tokens among them."""
        ...

    @property
    def eot_token(self) -> int:
        """The id of the token that ends documents, <|endoftext|> mostly."""
        ...

    @property
    def special_tokens_set(self) -> Any:  # tiktoken's is a cached_property, which type checkers take for no set
        """Tokens that no text encodes to: a set of str."""
        ...

    def encode_ordinary(self, text: str) -> list[int]:
        """Return a text's tokens; special tokens in it are text."""
        ...

    def encode_to_numpy(self, text: str, *, disallowed_special: Collection[str]) -> np.ndarray:
        """Return the same as uint32 (tokens,), with nothing disallowed if `disallowed_special` is empty."""
        ...

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """Return the id of a token; raise `KeyError` if it is none."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with � for bytes that are no UTF-8."""
        ...

    def decode_bytes(self, tokens: Sequence[int]) -> bytes: ...

    def decode_single_token_bytes(self, token: int) -> bytes:
        """Return a token's own bytes, which may be a part of a character; of a special token its name."""
        ...
