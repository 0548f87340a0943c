"""Examples as tokens, on disk a file of tensors for each split: ids, which of them have a loss, where each sequence begins.

An example is a sequence; a pair of answers is two, the chosen one first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from gpt.errors import UserError
from gpt.finetuning.data.examples import Example
from gpt.finetuning.data.templates import ChatTemplate, Message, Tokens
from gpt.params.finetuning import Classify, Instruct, Recipe
from gpt.tokens.encoding import Encoding

_HINT = "run `gpt finetune data` again"


class TooLong(Exception):
    """An example has more tokens than the context, and cropping is not asked for, or leaves nothing."""


@dataclass(frozen=True)
class Encoded:
    """The sequences of a split: `ids` (N,) int32 and `mask` (N,) bool in a row, of sequence i from starts[i] to starts[i + 1]."""

    ids: np.ndarray
    mask: np.ndarray
    starts: np.ndarray
    "(sequences + 1,) int64."
    labels: np.ndarray
    "(sequences,) int64: the number of each text's class; empty where there are none."

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> Tokens:
        place = slice(self.starts[number], self.starts[number + 1])
        return Tokens(self.ids[place], self.mask[place])

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def save(self, path: Path) -> None:
        save_file({"ids": self.ids, "mask": self.mask, "starts": self.starts, "labels": self.labels}, path)

    @classmethod
    def load(cls, path: Path) -> "Encoded":
        """Raise `UserError` if the file is missing or damaged."""
        try:
            return cls(**load_file(path))
        except (FileNotFoundError, safetensors.SafetensorError, TypeError) as error:
            raise UserError(f"{path}: missing or damaged ({error}); {_HINT}") from None


def join(sequences: Sequence[Tokens], labels: Sequence[int]) -> Encoded:
    """Return sequences in a row."""
    lengths = np.array([0, *map(len, sequences)], np.int64)
    ids = np.concatenate([np.empty(0, np.int32), *(each.ids for each in sequences)])
    mask = np.concatenate([np.empty(0, bool), *(each.mask for each in sequences)])
    return Encoded(ids, mask, lengths.cumsum(), np.array(labels, np.int64))


class Encoder:
    """Turns examples into sequences as a recipe says. `room` is the model's context in tokens."""

    def __init__(self, recipe: Recipe, encoding: Encoding, template: ChatTemplate | None, room: int) -> None:
        self._recipe, self._encoding, self._template, self._room = recipe, encoding, template, room

    def parts(self, example: Example) -> list[Example]:
        """Return a conversation in parts that have room, if the recipe splits long ones; else the example alone."""
        if "messages" not in example or "chosen" in example or self._recipe.data.too_long != "split":
            return [example]
        parts = split_conversation(example["messages"], lambda part: self._fits(part, example))
        return [example | {"messages": messages} for messages in parts]

    def encode(self, example: Example) -> tuple[Example, tuple[Tokens, ...]]:
        """Return an example, cropped if the recipe says so, with its sequences; raise `TooLong` if they have no room."""
        if isinstance(self._recipe.task, Classify):
            return example, (self._text(example["text"]),)
        return (example, self._pair(example)) if "chosen" in example else self._conversation(example)

    def _fits(self, messages: Sequence[Message], example: Example) -> bool:
        return len(self._tokens(messages, example)) <= self._room + 1  # the last token is no input

    def _tokens(self, messages: Sequence[Message], example: Example) -> Tokens:
        assert self._template is not None
        train_on = self._recipe.task.train_on if isinstance(self._recipe.task, Instruct) else "last_answer"
        return self._template.encode(messages, train_on, example.get("tools"))

    def _text(self, text: str) -> Tokens:
        """Return <|endoftext|>, after which a document begins, and the text."""
        ids = np.array([self._encoding.eot_token, *self._encoding.encode_ordinary(text)], np.int32)
        if len(ids) > self._room:
            self._check_cropped()
            ids = ids[: self._room]
        return Tokens(ids, np.zeros(len(ids), bool))

    def _conversation(self, example: Example) -> tuple[Example, tuple[Tokens, ...]]:
        """Return a conversation; of a longer one the oldest turns go, and the system's message stays."""
        for shorter in shortened(example["messages"]):
            tokens = self._tokens(shorter, example)
            if len(tokens) <= self._room + 1 and tokens.mask.any():
                return example | {"messages": shorter}, (tokens,)
            self._check_cropped()
        raise TooLong

    def _pair(self, example: Example) -> tuple[Tokens, ...]:
        """Return both conversations, with as many turns before the answers."""
        for shorter in shortened(example["messages"]):
            pair = tuple(
                self._tokens([*shorter, {"role": "assistant", "content": example[which]}], example)
                for which in ("chosen", "rejected")
            )
            if all(len(tokens) <= self._room + 1 for tokens in pair):
                return pair
            self._check_cropped()
        raise TooLong

    def _check_cropped(self) -> None:
        if self._recipe.data.too_long != "crop":
            raise TooLong


def shortened(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield a conversation, and then it without its oldest turn, and the next one, to the last: from one of the user's on."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    rest = list(messages[len(system) :])
    yield [*system, *rest]
    for first in range(1, len(rest)):
        if rest[first]["role"] == "user":
            yield [*system, *rest[first:]]


def fit_prompt(template: ChatTemplate, messages: Sequence[Message], room: int) -> tuple[list[int], int]:
    """Return the tokens after which an answer comes, with as many turns as `room` has, and how many of the oldest messages went.

    If not even the last turn has room, its tokens are returned all the same.
    """
    shorter = list(shortened(messages))
    # The fewest turns that go: what fits with some gone fits with more of them gone.
    first, last = 0, len(shorter) - 1
    while first < last:
        middle = (first + last) // 2
        if len(template.encode_prompt(shorter[middle])) <= room:
            last = middle
        else:
            first = middle + 1
    return template.encode_prompt(shorter[first]), len(messages) - len(shorter[first])


def split_conversation(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[list[Message]]:
    """Return a conversation in parts that fit, as long as may be, each from one of the user's turns on, after the system's message.

    A single exchange that does not fit is a part all the same.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    exchanges: list[list[Message]] = []
    for message in messages[len(system) :]:
        if message["role"] == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(message)
    parts: list[list[Message]] = []
    for exchange in exchanges:
        if parts and fits([*parts[-1], *exchange]):
            parts[-1] += exchange
        else:
            parts.append([*system, *exchange])
    return parts
