"""Which sequences an optimizer step sees: a pure function of seed and step.

There is no iterator and so no iterator state: a resumed run, another number of processes or another micro-batch
sees the same global batches. An epoch is one pass over all windows of block_size tokens, in an order and with an
offset of its own; the order is a keyed permutation that is computed for one index at a time (a Feistel network), so that nothing
grows with the data. Without a mixture the split is one stream; with one (mixture.py) each source is, with epochs of its own.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from gpt.errors import UserError
from gpt.params.training import Phase
from gpt.tokens.mixture import Mixture
from gpt.tokens.shards import Span, TokenReader

_ROUNDS = 4  # four rounds of a Feistel network suffice for a pseudorandom permutation (Luby and Rackoff 1988)


class Use(NamedTuple):
    """What training sees of a source, or of all of them in one order."""

    source: str
    "Empty for all."
    tokens: int
    "That there are."
    sequences: int
    "That are asked for."
    epochs: float


class Batches:
    """The training batches of one split, mixed as the phases of `mixture` say; without any, in one shuffled order.

    Raises `UserError` if the split, or a source of the mixture, is shorter than two windows.
    """

    def __init__(
        self, reader: TokenReader, block_size: int, batch_size: int, seed: int, mixture: Sequence[Phase] = ()
    ) -> None:
        self._reader, self._block_size, self._batch_size = reader, block_size, batch_size
        self._mixture = Mixture(mixture, batch_size) if mixture else None
        if self._mixture is None:
            self._streams = [_Stream(Span(0, reader.tokens), block_size, [seed], "")]
        else:
            # The words of a source's seed are of its name: other sources beside it leave its order as it is.
            self._streams = [
                _Stream(reader.sources.get(name, Span(0, 0)), block_size, [seed, *_words(name)], name)
                for name in self._mixture.names
            ]

    def starts(self, step: int) -> np.ndarray:
        """Return the first token's position of every sequence of global batch `step` (from 0): (batch_size,) int64."""
        if self._mixture is None:
            sequences = np.arange(step * self._batch_size, (step + 1) * self._batch_size, dtype=np.int64)
            return self._streams[0].starts(sequences)
        sources, numbers = self._mixture.place(step)
        starts = np.empty_like(numbers)
        for source in np.unique(sources):
            here = sources == source
            starts[here] = self._streams[source].starts(numbers[here])
        return starts

    def uses(self, steps: int) -> list[Use]:
        """Return what the first `steps` steps see of each source."""
        counts = {"": steps * self._batch_size} if self._mixture is None else self._mixture.counts(steps)
        return [
            Use(stream.source, stream.tokens, counts[stream.source], counts[stream.source] / stream.windows)
            for stream in self._streams
        ]

    def read(self, step: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sequences [first, last) of global batch `step` as inputs and targets, each (last - first, T) int64."""
        rows = [self._reader.read(int(start), self._block_size + 1) for start in self.starts(step)[first:last]]
        tokens = torch.from_numpy(np.stack(rows))
        return tokens[:, :-1], tokens[:, 1:]


class _Stream:
    """Tokens in a row that are seen window by window, epoch after epoch."""

    def __init__(self, span: Span, block_size: int, seed: list[int], source: str) -> None:
        self.source, self.tokens = source, span.tokens
        self._first, self._block_size, self._seed = span.start, block_size, seed
        self.windows = (span.tokens - block_size) // block_size  # an epoch's: there is room for any offset
        if self.windows < 1:
            raise UserError(
                f"data/tokens: the train split has {span.tokens} tokens{f' of {source}' if source else ''}, fewer than two"
                f" windows of model.block_size = {block_size}; lower it in params.yaml or add documents"
                + (", or leave the source out of train.mixture" if source else "")
            )

    def starts(self, sequences: np.ndarray) -> np.ndarray:
        """Return the first token's position of the stream's n-th sequences, which go on from one epoch to the next."""
        epochs, slots = np.divmod(sequences, self.windows)
        starts = np.empty_like(sequences)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = round_keys(self._seed, int(epoch))
            offset = int(key[-1]) % self._block_size
            starts[here] = permute(slots[here], self.windows, key) * self._block_size + offset
        return starts + self._first


def permute(indices: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """Map indices in [0, size) to distinct indices in [0, size), the same way for the same key.

    A Feistel network permutes the next even power of two; what falls outside [0, size) is permuted again until it is inside
    (cycle walking, Black and Rogaway 2002), less than four times on average.
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    values = indices.astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, key)
        outside = values >= size
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, key: np.ndarray) -> np.ndarray:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(right ^ key[number]) & mask)
    return (left << bits) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): every output bit depends on every input bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def round_keys(seed: Sequence[int], epoch: int) -> np.ndarray:
    """Return the round keys of an epoch and one more number for its offset: (5,) uint64."""
    return np.random.Philox(np.random.SeedSequence([*seed, epoch])).random_raw(_ROUNDS + 1).astype(np.uint64)


def _words(name: str) -> list[int]:
    """Return a name as numbers for a seed."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return [int.from_bytes(digest[place : place + 4], "little") for place in range(0, 16, 4)]
