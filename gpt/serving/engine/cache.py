"""The KV cache of many requests: one buffer a layer, in blocks of a few tokens that any request may hold (Kwon et al. 2023).

A request takes a block when its tokens fill the ones it has, so that nobody holds room for tokens that never come. A step reads
spans of tokens of many requests in one row after the other: every linear layer sees one matrix, attention alone looks at each
request by itself.
"""

import math
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

    @property
    def held(self) -> int:
        """How many blocks the tokens up to the end fill."""
        return -(-self.end // BLOCK)


class BlockCache:
    """A `DecodingCache` for `blocks` blocks of tokens."""

    def __init__(self, model: GPTModel, blocks: int) -> None:
        self._weight, config = model.tok_emb.weight, model.config
        self._free = list(range(blocks))
        shape = (blocks, BLOCK, config.kv_heads, config.head_size)
        # Zeros, as padding is read and has the weight 0; memory that nothing was written to yet costs none.
        like = {"device": self._weight.device, "dtype": self._weight.dtype}
        gathered = _Gathered(shape, **like), _Gathered(shape, **like)
        self.layers = [
            _Layer(torch.zeros(shape, **like), torch.zeros(shape, **like), gathered) for _ in range(config.n_layer)
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
        positions = [position for span in spans for position in range(span.start, span.end)]
        blocks = [span.blocks[position // BLOCK] for span in spans for position in range(span.start, span.end)]
        self._positions = torch.tensor(positions, device=device)[:, None]
        slots = torch.tensor(blocks, device=device) * BLOCK + self._positions[:, 0] % BLOCK
        singles = [span for span in spans if span.count == 1]
        assert all(span.count == 1 for span in spans[: len(singles)]), "single tokens come first"
        table = mask = None
        if singles:
            longest = max(span.held for span in singles)
            rows = [[*span.blocks[: span.held], *[0] * (longest - span.held)] for span in singles]
            table = torch.tensor(rows, device=device)  # (D, blocks)
            ends = torch.tensor([span.end for span in singles], device=device)
            mask = self._additive(torch.arange(longest * BLOCK, device=device) < ends[:, None])[:, None, None]
        chunks: list[_Chunk] = []
        first = len(singles)
        for span in spans[len(singles) :]:
            held = torch.tensor([span.blocks[: span.held]], device=device)
            seen = torch.arange(span.held * BLOCK, device=device)
            rows = slice(first, first + span.count)
            chunks.append(_Chunk(rows, held, self._additive(seen <= seen[span.start : span.end, None])))
            first += span.count
        for layer in self.layers:
            layer.positions, layer.slots, layer.table, layer.mask = self._positions, slots, table, mask
            layer.chunks = chunks

    def _additive(self, looks: torch.Tensor) -> torch.Tensor:
        """Return a mask as attention adds it to scores, once a step instead of in each layer."""
        return torch.where(looks, 0.0, -math.inf).to(self._weight.dtype)

    def begin(self, count: int) -> torch.Tensor:
        """Return the positions (N, 1) of the tokens that were planned."""
        assert count == 1, "each token is a row"
        return self._positions

    def advance(self, counts: int) -> None:
        """Nothing: whoever plans knows what was read."""


@dataclass(frozen=True)
class _Chunk:
    """Rows of a step that are tokens of one request."""

    rows: slice
    table: torch.Tensor
    "The blocks (1, blocks) of all its tokens."
    mask: torch.Tensor
    "(count, blocks × BLOCK): 0 where a token may look, else -inf."


class _Layer:
    """Keys and values of a layer, (blocks, BLOCK, n_kv_head, head_size), and the step that is planned."""

    positions: torch.Tensor | None
    slots: torch.Tensor
    "Where the tokens that are read are kept, counted in tokens from the first block on."
    table: torch.Tensor | None
    mask: torch.Tensor | None
    chunks: Sequence[_Chunk]

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, gathered: "tuple[_Gathered, _Gathered]") -> None:
        self._keys, self._values = keys, values
        self._gather_keys, self._gather_values = gathered

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        for kept, new in ((self._keys, keys), (self._values, values)):
            kept.flatten(0, 1).index_copy_(0, self.slots, new[:, :, 0].to(kept.dtype))
        contexts = []
        if self.table is not None:
            contexts.append(attend_grouped(queries[: len(self.table)], *self._of(self.table), self.mask))
        for chunk in self.chunks:
            asking = queries[chunk.rows, :, 0].transpose(0, 1)[None]  # (1, n_head, count, head_size)
            found = F.scaled_dot_product_attention(
                asking, *self._of(chunk.table), attn_mask=chunk.mask, enable_gqa=True
            )
            contexts.append(found[0].transpose(0, 1).flatten(1))
        return torch.cat(contexts)

    def _of(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and the values in a table of blocks (D, blocks): (D, n_kv_head, blocks × BLOCK, head_size) each."""
        return self._gather_keys(self._keys, table), self._gather_values(self._values, table)


class _Gathered:
    """Copies blocks beside each other, in memory that all layers use one after the other: new memory costs more than the copy.

    Whole blocks are copied, which is faster than as many single tokens.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        self._memory = torch.empty(0, *shape[1:], device=device, dtype=dtype)

    def __call__(self, kept: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        rows, blocks = table.shape
        if rows * blocks > len(self._memory):
            self._memory = self._memory.new_empty(rows * blocks, *kept.shape[1:])
        found = self._memory[: rows * blocks]
        torch.index_select(kept, 0, table.flatten(), out=found)
        return found.view(rows, -1, *kept.shape[2:]).transpose(1, 2)
