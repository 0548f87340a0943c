"""The KV cache of many requests: one buffer a layer, in blocks of a few tokens that any request may hold (Kwon et al. 2023).

A request takes a block when its tokens fill the ones it has, so that nobody holds room for tokens that never come. A step reads
spans of tokens of many requests in one row after the other: every linear layer sees one matrix, attention alone looks at each
request by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gpt.model.cache import attend_grouped
from gpt.model.transformer import GPTModel

BLOCK = 16
"Tokens of a block."


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `start + count` of a request whose blocks these are."""

    blocks: Sequence[int]
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count


class BlockCache:
    """A `DecodingCache` for `blocks` blocks of tokens."""

    def __init__(self, model: GPTModel, blocks: int) -> None:
        self._weight, config = model.tok_emb.weight, model.config
        self._free = list(range(blocks))
        shape = (blocks * BLOCK, config.kv_heads, config.head_size)
        # Zeros, as padding is read and has the weight 0; memory that nothing was written to yet costs none.
        self.layers = [
            _Layer(*(torch.zeros(shape, device=self._weight.device, dtype=self._weight.dtype) for _ in range(2)))
            for _ in range(config.n_layer)
        ]
        self.blocks = blocks

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def take(self) -> int:
        """Return a block that nobody else holds from now on; `IndexError` if there is none."""
        return self._free.pop()

    def give_back(self, blocks: list[int]) -> None:
        """Free blocks, and empty the list of who held them."""
        self._free += blocks
        blocks.clear()

    def plan(self, spans: Sequence[Span]) -> None:
        """Say which tokens the next step reads, one span after the other: those of one token first."""
        device = self._weight.device
        positions = [range(span.start, span.end) for span in spans]
        slots = [slot for span in spans for slot in _slots(span, span.start)]
        self._positions = torch.tensor([each for span in positions for each in span], device=device)[:, None]
        self._slots = torch.tensor(slots, device=device)
        singles = [span for span in spans if span.count == 1]
        assert all(span.count == 1 for span in spans[: len(singles)]), "single tokens come first"
        table = mask = None
        if singles:
            longest = max(span.end for span in singles)
            rows = [_slots(span, 0) + [0] * (longest - span.end) for span in singles]
            table = torch.tensor(rows, device=device)  # (D, longest)
            ends = torch.tensor([span.end for span in singles], device=device)
            mask = (torch.arange(longest, device=device) < ends[:, None])[:, None, None]
        chunks: list[_Chunk] = []
        first = len(singles)
        for span in spans[len(singles) :]:
            seen = torch.arange(span.end, device=device)
            chunks.append(
                _Chunk(
                    slice(first, first + span.count),
                    torch.tensor(_slots(span, 0), device=device),
                    seen <= seen[span.start :, None],
                )
            )
            first += span.count
        for layer in self.layers:
            layer.positions, layer.slots, layer.table, layer.mask = self._positions, self._slots, table, mask
            layer.chunks = chunks

    def begin(self, count: int) -> torch.Tensor:
        """Return the positions (N, 1) of the tokens that were planned."""
        assert count == 1, "each token is a row"
        return self._positions

    def advance(self, counts: int) -> None:
        """Nothing: whoever plans knows what was read."""


@dataclass(frozen=True)
class _Chunk:
    """Rows of a step that are tokens of one request, the slots (T,) of all that it has, and what each may look at, (count, T)."""

    rows: slice
    slots: torch.Tensor
    mask: torch.Tensor


class _Layer:
    """Keys and values of a layer, (slots, n_kv_head, head_size), and the step that is planned."""

    positions: torch.Tensor | None
    slots: torch.Tensor
    table: torch.Tensor | None
    mask: torch.Tensor | None
    chunks: Sequence[_Chunk]

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._keys, self._values = keys, values

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        self._keys[self.slots] = keys[:, :, 0].to(self._keys.dtype)
        self._values[self.slots] = values[:, :, 0].to(self._values.dtype)
        contexts = []
        if self.table is not None:
            known, told = (kept[self.table].transpose(1, 2) for kept in (self._keys, self._values))
            contexts.append(attend_grouped(queries[: len(self.table)], known, told, self.mask))
        for chunk in self.chunks:
            asking = queries[chunk.rows, :, 0].transpose(0, 1)[None]  # (1, n_head, count, head_size)
            seen = (kept[chunk.slots].transpose(0, 1)[None] for kept in (self._keys, self._values))
            found = F.scaled_dot_product_attention(asking, *seen, attn_mask=chunk.mask, enable_gqa=True)
            contexts.append(found[0].transpose(0, 1).flatten(1))
        return torch.cat(contexts)


def _slots(span: Span, first: int) -> list[int]:
    """Return where in the buffers tokens `first` to the span's end lie."""
    return [span.blocks[token // BLOCK] * BLOCK + token % BLOCK for token in range(first, span.end)]
