"""Sequences packed into rows of one length, so that few places of a batch are empty.

Best-fit decreasing (Johnson 1974): the longest first, each into the fullest row that still has room. A row never holds a part of a
sequence. A packed row has the loss that its sequences have alone: attention stops between them, and positions begin anew.
"""

from collections.abc import Sequence

import numpy as np
import torch

from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.templates import Tokens
from gpt.tokens.batches import permute, round_keys

_NOBODY = -1
"The number of the document that empty places are of."


def pack(lengths: np.ndarray, room: int) -> list[list[int]]:
    """Return which sequences each row holds; `lengths` (sequences,) are at most `room`."""
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(room + 1)]  # rows by the space that is left in them
    filled = 0  # bit s: there is a row with space s
    for number in np.argsort(-lengths, kind="stable"):
        length = int(lengths[number])
        fitting = filled >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                filled &= ~(1 << space)
        else:
            space, row = room, len(rows)
            rows.append([])
        rows[row].append(int(number))
        by_space[space - length].append(row)
        filled |= 1 << (space - length)
    return rows


class PackedRows:
    """The sequences of a split in rows of `room` places."""

    def __init__(self, data: Encoded, room: int) -> None:
        self._data, self._room = data, room
        self._rows = pack(data.lengths - 1, room)  # the last token of a sequence is no input
        self.targets = np.array([sum(int(data[number].mask[1:].sum()) for number in row) for row in self._rows])
        "Of each row: how many tokens have a loss."

    def __len__(self) -> int:
        return len(self._rows)

    def sequences(self, row: int) -> list[Tokens]:
        """Return what a row holds."""
        return [self._data[number] for number in self._rows[row]]

    def tensors(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return what the model is called with: (rows, room) tokens, each with its document in the row and its position there."""
        shape = len(rows), self._room
        tokens, targets = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        documents, positions = np.full(shape, _NOBODY, np.int64), np.zeros(shape, np.int64)
        for place, row in enumerate(rows):
            begin = 0
            for document, number in enumerate(self._rows[row]):
                sequence = self._data[number]
                end = begin + len(sequence) - 1
                tokens[place, begin:end] = sequence.ids[:-1]
                targets[place, begin:end] = np.where(sequence.mask[1:], sequence.ids[1:], -1)
                documents[place, begin:end], positions[place, begin:end] = document, np.arange(end - begin)
                begin = end
        (wanted,) = np.nonzero(targets.ravel() >= 0)
        arrays = {"tokens": tokens, "targets": targets.ravel()[wanted], "wanted": wanted}
        arrays |= {"documents": documents, "positions": positions}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def shuffled(step: int, batch_size: int, size: int, seed: int) -> np.ndarray:
    """Return which of `size` examples global batch `step` has, (batch_size,) int64: epoch after epoch, each in another order."""
    epochs, slots = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64), size)
    numbers = np.empty_like(slots)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        numbers[here] = permute(slots[here], size, round_keys([seed], int(epoch)))
    return numbers
