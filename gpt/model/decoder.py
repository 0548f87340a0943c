"""The decoding step of generation: `GPTModel.hidden` and `logits` for one token a row, in fewer and larger matrix products.

It computes the same function of the same weights. A step of one token reads every weight once, so that the layout of weights in
memory and the number of kernel calls decide its time. tests/model/test_decoder.py compares the logits of both.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from gpt.model.layers import GatedFeedForward, gelu
from gpt.model.transformer import GPTModel, TransformerBlock

_MANY_ROWS = 64
"With more rows a matrix product is limited by arithmetic, and PyTorch's own choice of kernel is the best."


class DecodingLayer(Protocol):
    """One layer of a cache, as the decoder needs it."""

    positions: torch.Tensor | None
    "Of the tokens that are read, (1,) or (B, 1); None: 0."

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Store keys and values (B, n_kv_head, 1, head_size); return what the queries (B, n_head, 1, head_size) see, (B, C)."""
        ...


class DecodingCache(Protocol):
    """Keys and values of what was read: `KeyValueCache`, or the server's, whose rows may be of one text."""

    @property
    def layers(self) -> Sequence[DecodingLayer]: ...

    def begin(self, count: int) -> torch.Tensor | None:
        """Prepare every layer for each row's next `count` tokens; return their positions."""
        ...

    def advance(self, counts: int) -> None:
        """Count the tokens just read as read."""
        ...


class Decoder:
    """Reads one token of each row of a cache. Holds copies of some weights: build it anew when they have changed.

    `transpose` holds copies of the linear layers' weights in the layout in which a CPU reads them fastest for a single row;
    making them takes as long as some ten tokens.
    """

    def __init__(self, model: GPTModel, *, transpose: bool = False) -> None:
        self._model = model
        self._table = model.position_table if model.pos_emb is None else model.pos_emb.weight
        self._layers = [_Layer(block, transpose) for block in model.trf_blocks if isinstance(block, TransformerBlock)]
        self._head = _Linear(model.head_weight, None, transpose)

    @torch.inference_mode()
    def __call__(self, tokens: torch.Tensor, cache: DecodingCache, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits (B, vocab_size) of what follows `tokens` (B,), which the cache then holds; or of `wanted` rows alone."""
        positions = cache.begin(1)
        x = F.embedding(tokens, self._model.tok_emb.weight)  # (B, C)
        if self._table is not None:
            x = x + (self._table[:1] if positions is None else self._table[positions.flatten()])
        for layer, layer_cache in zip(self._layers, cache.layers, strict=True):
            x = layer(x, layer_cache)
        cache.advance(1)
        x = x if wanted is None else x[wanted]
        return self._head(self._model.final_norm(x))[:, : self._model.config.vocab_size]


class _Layer:
    """A `TransformerBlock` with fused weights: one matrix for queries, keys and values, one for gate and expansion."""

    def __init__(self, block: TransformerBlock, transpose: bool) -> None:
        self._block, self._att, ff = block, block.att, block.ff
        self._gated = isinstance(ff, GatedFeedForward)
        self._squared = not isinstance(ff, GatedFeedForward) and ff.activation == "relu2"
        self._qkv = _joined([block.att.W_query, block.att.W_key, block.att.W_value], transpose)
        self._out = _joined([block.att.out_proj], transpose)
        self._expand = _joined([ff.gate, ff.expand] if isinstance(ff, GatedFeedForward) else [ff.expand], transpose)
        self._shrink = _joined([ff.out_proj], transpose)

    def __call__(self, x: torch.Tensor, cache: DecodingLayer) -> torch.Tensor:
        x = x + self._out(self._attend(self._block.norm1(x), cache))
        h = self._expand(self._block.norm2(x))
        if self._gated:
            gate, h = h.chunk(2, dim=-1)
            h = F.silu(gate) * h
        else:
            h = F.relu(h).square() if self._squared else gelu(h)
        return x + self._shrink(h)

    def _attend(self, x: torch.Tensor, cache: DecodingLayer) -> torch.Tensor:
        """Map (B, C) to the concatenated contexts of the heads (B, C)."""
        att = self._att
        # Of queries, then of keys, then of values.
        heads = self._qkv(x).contiguous().view(x.shape[0], -1, 1, att.head_dim)
        first_key, first_value = att.num_heads, att.num_heads + att.num_kv_heads
        asked, values = heads[:, :first_value], heads[:, first_value:]
        if att.query_norm is not None and att.key_norm is not None:
            asked = torch.cat((att.query_norm(asked[:, :first_key]), att.key_norm(asked[:, first_key:])), dim=1)
        if att.rotary is not None:
            asked = att.rotary(asked, cache.positions)
        return cache.attend(asked[:, :first_key], asked[:, first_key:], values)


class _Linear:
    """A linear layer for a few rows: (B, in) to (B, out)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, transpose: bool) -> None:
        self._weight, self._bias = weight, bias
        # A CPU reads the weight (out, in) in rows of `in` numbers, transposed in rows of `out`: longer rows are read faster.
        widens = weight.shape[0] > weight.shape[1]
        self._transposed = weight.t().contiguous() if transpose and widens else None  # (in, out)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._transposed is not None:
            return x @ self._transposed if self._bias is None else torch.addmm(self._bias, x, self._transposed)
        if x.device.type != "cpu" or not 1 < x.shape[0] <= _MANY_ROWS:
            return F.linear(x, self._weight, self._bias)
        # With the many outputs as rows of the product, a CPU divides the work between its cores much better.
        if self._bias is None:
            return (self._weight @ x.t()).t()
        return torch.addmm(self._bias[:, None], self._weight, x.t()).t()


def _joined(layers: list[nn.Linear], transpose: bool) -> _Linear:
    """Return linear layers of the same input fused into one, with their outputs concatenated."""
    if len(layers) == 1:
        return _Linear(layers[0].weight, layers[0].bias, transpose)
    biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return _Linear(torch.cat([layer.weight for layer in layers]), torch.cat(biases) if biases else None, transpose)
