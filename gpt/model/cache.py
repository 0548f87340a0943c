"""Keys and values of the tokens that a model has read, in buffers that are allocated once.

Every row of a batch has its own length: prompts are padded on the right, a row's next token overwrites its padding, and
no row ever sees what lies behind its own length. So a row's text does not depend on its neighbours.
"""

from collections.abc import Sequence

import torch


class KeyValueCache:
    """What `GPTModel.hidden` has read so far: for each layer keys and values (B, n_kv_head, capacity, head_size)."""

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
        self.layers = [
            LayerCache(torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))
            for _ in range(n_layer)
        ]

    def begin(self, T: int) -> torch.Tensor | None:
        """Prepare every layer for the next T tokens of each row; return their positions, (T,) or (B, T); None: 0 … T - 1."""
        longest = max(self.lengths)
        if longest + T > self.capacity:
            raise ValueError(f"{longest} + {T} tokens do not fit into a cache of {self.capacity}")
        uniform = min(self.lengths) == longest
        if uniform and longest == 0:
            positions, mask = None, None  # a prompt: plain causal attention
        elif uniform:
            positions = torch.arange(longest, longest + T, device=self.device)
            mask = None if T == 1 else self._mask(positions[None], longest + T)
        else:
            lengths = torch.tensor(self.lengths, device=self.device)
            positions = lengths[:, None] + torch.arange(T, device=self.device)  # (B, T)
            mask = self._mask(positions, longest + T)
        for layer in self.layers:
            layer.start, layer.end = (longest if uniform else None), longest + T
            layer.positions, layer.mask, layer.is_causal = positions, mask, longest == 0
        return positions

    def advance(self, counts: Sequence[int] | int) -> None:
        """Say how many of the tokens last read count in each row: all but its padding."""
        counts = [counts] * len(self.lengths) if isinstance(counts, int) else counts
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def _mask(self, positions: torch.Tensor, end: int) -> torch.Tensor:
        """Return (B or 1, 1, T, end), True where a token at `positions` (B or 1, T) may look."""
        return (torch.arange(end, device=self.device) <= positions[..., None])[:, None]


class LayerCache:
    """One layer's keys and values, and where the tokens that are being read belong."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.start: int | None = 0
        self.end = 0
        self.positions: torch.Tensor | None = None
        self.mask: torch.Tensor | None = None
        self.is_causal = True

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new tokens' keys and values (B, n_kv_head, T, head_size) and return all so far (B, n_kv_head, end, head_size)."""
        if self.start is not None:
            self.keys[:, :, self.start : self.end] = keys
            self.values[:, :, self.start : self.end] = values
        else:
            assert self.positions is not None, "rows of different length have positions of their own"
            rows = torch.arange(len(keys), device=keys.device)[:, None]
            self.keys[rows, :, self.positions] = keys.transpose(1, 2)
            self.values[rows, :, self.positions] = values.transpose(1, 2)
        return self.keys[:, :, : self.end], self.values[:, :, : self.end]
