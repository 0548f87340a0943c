"""The KV cache: keys and values of the tokens that a model has read, in buffers that are allocated once.

Every row of a batch has its own length: prompts are padded on the right, a row's next token overwrites its padding, and
no row ever sees what lies behind its own length. So a row's text does not depend on its neighbours.
"""

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F


class KeyValueCache:
    """For each layer keys and values (B, n_kv_head, capacity, head_size) of the tokens that `GPTModel.hidden` has read."""

    def __init__(
        self,
        batch_size: int,
        *,
        n_layer: int,
        n_kv_head: int,
        head_size: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.capacity, self.device = capacity, device
        self.lengths = [0] * batch_size
        "Tokens of each row that the buffers hold."
        shape = (batch_size, n_kv_head, capacity, head_size)
        # Zeros, not uninitialised memory: attention gives masked positions the weight 0, and 0 times NaN is NaN.
        self.layers = [
            LayerCache(torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))
            for _ in range(n_layer)
        ]

    def begin(self, count: int) -> torch.Tensor | None:
        """Prepare every layer for each row's next T = `count` tokens; return their positions, (T,) or (B, T); None: 0 … T - 1."""
        longest = max(self.lengths)
        end = longest + count
        if end > self.capacity:
            raise ValueError(f"{longest} + {count} tokens do not fit into a cache of {self.capacity}")
        uniform = min(self.lengths) == longest
        if uniform and longest == 0:
            positions, mask = None, None  # a prompt: plain causal attention
        elif uniform:
            positions = torch.arange(longest, end, device=self.device)
            mask = None if count == 1 else self._mask(positions[None], end)
        else:
            lengths = torch.tensor(self.lengths, device=self.device)
            positions = lengths[:, None] + torch.arange(count, device=self.device)  # (B, T)
            mask = self._mask(positions, end)
        for layer in self.layers:
            layer.start, layer.end = (longest if uniform else None), end
            layer.positions, layer.mask, layer.is_causal = positions, mask, longest == 0
        return positions

    def advance(self, counts: Sequence[int] | int) -> None:
        """Add to each row's length the tokens just read: its own, without the padding."""
        counts = [counts] * len(self.lengths) if isinstance(counts, int) else counts
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def put(self, rows: Sequence[int], other: "KeyValueCache") -> None:
        """Replace `rows` by the rows of `other`, in its order."""
        for row, source, length in zip(rows, range(len(rows)), other.lengths, strict=True):
            self._copy_row(row, other, source, length)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these (in ascending order), which become rows 0, 1, …"""
        for row, source in enumerate(rows):
            if row != source:
                self._copy_row(row, self, source, self.lengths[source])
        self.lengths = self.lengths[: len(rows)]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[: len(rows)], layer.values[: len(rows)]

    def take(self, rows: Sequence[int], room: int) -> "KeyValueCache":
        """Return a new cache with these rows, any of them any number of times, and room for so many more tokens of each."""
        taken = copy(self)
        longest = max(self.lengths[row] for row in rows)
        taken.capacity, taken.lengths = longest + room, [self.lengths[row] for row in rows]
        index = torch.tensor(rows, device=self.device)
        taken.layers = [
            LayerCache(*(F.pad(kept[index, :, :longest], (0, 0, 0, room)) for kept in (layer.keys, layer.values)))
            for layer in self.layers
        ]
        return taken

    def _copy_row(self, row: int, other: "KeyValueCache", source: int, length: int) -> None:
        self.lengths[row] = length
        for layer, from_layer in zip(self.layers, other.layers, strict=True):
            layer.keys[row, :, :length] = from_layer.keys[source, :, :length]
            layer.values[row, :, :length] = from_layer.values[source, :, :length]

    def _mask(self, positions: torch.Tensor, end: int) -> torch.Tensor:
        """Return (B or 1, 1, T, end), True where a token at `positions` (B or 1, T) may look."""
        return (torch.arange(end, device=self.device) <= positions[..., None])[:, None]


class LayerCache:
    """One layer's keys and values, and the positions at which those of new tokens are stored."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.start: int | None = 0
        self.end = 0
        self.positions: torch.Tensor | None = None
        self.mask: torch.Tensor | None = None
        self.is_causal = True

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new tokens' keys and values (B, n_kv_head, T, head_size); return all so far (B, n_kv_head, end, head_size)."""
        keys, values = keys.to(self.keys.dtype), values.to(self.values.dtype)  # autocast gives halves
        if self.start is not None:
            self.keys[:, :, self.start : self.end] = keys
            self.values[:, :, self.start : self.end] = values
        else:
            assert self.positions is not None, "rows of different length have positions of their own"
            rows = torch.arange(len(keys), device=keys.device)[:, None]
            self.keys[rows, :, self.positions] = keys.transpose(1, 2)
            self.values[rows, :, self.positions] = values.transpose(1, 2)
        return self.keys[:, :, : self.end], self.values[:, :, : self.end]

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Store keys and values of one token a row; return what its queries (B, n_head, 1, head_size) see, (B, C)."""
        keys, values = self.extend(keys, values)
        return attend_grouped(queries, keys, values, self.mask)


def attend_grouped(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Return the attention (B, n_head × head_size) of one token a row; `mask` (B or 1, 1, 1, T) is True where it may look.

    Queries (B, n_head, 1, head_size) that share a key head take the place of positions in a sequence, so that no key is repeated.
    """
    B, n_kv_head, _, head_size = keys.shape
    queries = queries.reshape(B, n_kv_head, -1, head_size)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).reshape(B, -1)
