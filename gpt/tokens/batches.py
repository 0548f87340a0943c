"""Which sequences an optimizer step sees: a pure function of seed and step.

There is no iterator and so no iterator state: a resumed run, another number of processes or another micro-batch
sees the same global batches. An epoch is one pass over all windows of block_size tokens, in an order and with an
offset of its own; the order is a keyed permutation that is computed for one index at a time (a Feistel network), so that nothing
grows with the data.
"""

import numpy as np
import torch

from gpt.errors import UserError
from gpt.tokens.shards import TokenReader

_ROUNDS = 4  # four rounds of a Feistel network suffice for a pseudorandom permutation (Luby and Rackoff 1988)


class Batches:
    """The training batches of one split.

    Raises `UserError` if the split is shorter than two windows.
    """

    def __init__(self, reader: TokenReader, block_size: int, batch_size: int, seed: int) -> None:
        self._reader, self._block_size, self._batch_size, self._seed = reader, block_size, batch_size, seed
        self.windows_per_epoch = (reader.tokens - block_size) // block_size  # room for any offset
        if self.windows_per_epoch < 1:
            raise UserError(
                f"data/tokens: the train split has {reader.tokens} tokens, fewer than two windows of"
                f" model.block_size = {block_size}; lower it in params.yaml or add documents"
            )

    def starts(self, step: int) -> np.ndarray:
        """Return the first token's position of every sequence of global batch `step` (from 0): (batch_size,) int64."""
        sequences = np.arange(step * self._batch_size, (step + 1) * self._batch_size, dtype=np.int64)
        epochs, slots = np.divmod(sequences, self.windows_per_epoch)
        starts = np.empty_like(sequences)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = _key(self._seed, int(epoch))
            offset = int(key[-1]) % self._block_size
            starts[here] = permute(slots[here], self.windows_per_epoch, key) * self._block_size + offset
        return starts

    def read(self, step: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sequences [first, last) of global batch `step` as inputs and targets, each (last - first, T) int64."""
        rows = [self._reader.read(int(start), self._block_size + 1) for start in self.starts(step)[first:last]]
        tokens = torch.from_numpy(np.stack(rows))
        return tokens[:, :-1], tokens[:, 1:]


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


def _key(seed: int, epoch: int) -> np.ndarray:
    """Return the round keys of an epoch and one more number for its offset: (5,) uint64."""
    return np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(_ROUNDS + 1).astype(np.uint64)
