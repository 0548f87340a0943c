"""A request while it is answered: a prompt, what was written after it, and which of it the cache holds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from gpt.model.sampling import Sampling
from gpt.tokens.detokenizer import Detokenizer
from gpt.tokens.encoding import Encoding

Finish = Literal["stop", "length", "timeout", "failure"]


@dataclass(frozen=True)
class Likelihood:
    """A token that was written, and how likely the model held it and others, in nats, before temperature and the like."""

    content: bytes
    "May be a part of a character."
    logprob: float
    offset: int
    "Characters of the answer before it."
    alternatives: tuple[tuple[bytes, float], ...]
    "The likeliest tokens, the likeliest first."


@dataclass(frozen=True)
class Piece:
    """What a step has added to an answer."""

    request: "Request"
    text: str
    "Whole characters."
    tokens: tuple[Likelihood, ...] = ()
    "Those of the text, if the request asked for them."
    finish: Finish | None = None
    "Why the answer is over; None: it is not."


@dataclass(eq=False)
class Request:
    """Raises `ValueError` for a prompt without tokens."""

    prompt: Sequence[int]
    sampling: Sampling
    encoding: Encoding
    ends: Collection[int]
    "Tokens that end the answer."
    silent: Collection[int] = ()
    "Tokens that have no text."
    alternatives: int | None = None
    "How many of the likeliest tokens are told beside each; None: no likelihoods are told."
    deadline: float = float("inf")
    "Of `time.monotonic`."
    tokens: list[int] = field(init=False)
    "Of the prompt and the answer."
    read: int = field(init=False, default=0)
    "The first of them that the cache holds."
    blocks: list[int] = field(init=False, default_factory=list)
    "Blocks of the cache that hold them."
    left: bool = field(init=False, default=False)
    "The client waits no more."

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("a prompt needs at least one token")
        self.tokens = list(self.prompt)
        self.choice = replace(self.sampling, max_new_tokens=1, stop=(), seed=0)
        "Requests whose choices are equal are sampled together."
        # On the CPU whatever the device, so that a seed gives the same draws everywhere.
        self.generator = torch.Generator().manual_seed(self.sampling.seed)
        self.detokenizer = Detokenizer(self.encoding, self.sampling.stop, ends=self.ends, silent=self.silent)
        self._untold: list[Likelihood] = []

    @property
    def written(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.prompt)

    def extend(self, token: int, likelihood: Likelihood | None, context: int) -> Piece:
        """Take the next token, and return what it adds to the answer; `context` is the most tokens that the model reads."""
        self.tokens.append(token)
        finish: Finish | None = "stop" if self.detokenizer.add(token) else None
        if likelihood is not None and token not in self.ends:
            self._untold.append(likelihood)
        if finish is None and (self.written >= self.sampling.max_new_tokens or len(self.tokens) >= context):
            finish = "length"
        return self._piece(finish)

    def give_up(self, finish: Finish) -> Piece:
        """End the answer for another reason than its text."""
        return self._piece(finish)

    def _piece(self, finish: Finish | None) -> Piece:
        if finish is not None:
            self.detokenizer.finish()
        text = self.detokenizer.take()
        # A token is told with its text: what belongs to a stop string never is.
        told = [each for each in self._untold if each.offset < self.detokenizer.taken]
        del self._untold[: len(told)]
        return Piece(self, text, tuple(told), finish)
