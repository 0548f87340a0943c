"""Self-attention in the four steps of Raschka, *Build a Large Language Model (From Scratch)*, chapter 3.

Each class is the one before it and one idea more; names and constructors are the book's. `GPTModel` uses the fourth.
docs/attention.md walks through them with pictures.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import nn

from gpt.model.cache import LayerCache
from gpt.model.layers import RMSNorm, RotaryEmbedding

Weighted = tuple[torch.Tensor, torch.Tensor]


class SimplifiedSelfAttention(nn.Module):
    """Every token looks at every other, weighted by the dot product of their embeddings; nothing is learned (section 3.3).

    Maps (T, d_in) or (B, T, d_in) to the same shape; with `return_weights` also gives the weights (…, T, T), whose rows sum to 1.
    """

    def forward(self, x: torch.Tensor, return_weights: bool = False) -> torch.Tensor | Weighted:
        weights = torch.softmax(x @ x.transpose(-2, -1), dim=-1)
        context = weights @ x
        return (context, weights) if return_weights else context


class SelfAttention(nn.Module):
    """Learned projections give each token a query, a key and a value (section 3.4; Vaswani et al. 2017).

    Maps (T, d_in) or (B, T, d_in) to (…, T, d_out); with `return_weights` also gives the weights (…, T, T).
    """

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def forward(self, x: torch.Tensor, return_weights: bool = False) -> torch.Tensor | Weighted:
        queries, keys, values = self.W_query(x), self.W_key(x), self.W_value(x)
        weights = torch.softmax(_scores(queries, keys), dim=-1)
        context = weights @ values
        return (context, weights) if return_weights else context


class CausalAttention(nn.Module):
    """A mask hides later tokens, and dropout zeroes some of the attention weights in training (section 3.5).

    Maps (B, T, d_in) with T at most `context_length` to (B, T, d_out); with `return_weights` also gives the weights
    (B, T, T) after dropout.
    """

    mask: torch.Tensor

    def __init__(self, d_in: int, d_out: int, context_length: int, dropout: float, qkv_bias: bool = False) -> None:
        super().__init__()
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", _future(context_length), persistent=False)

    def forward(self, x: torch.Tensor, return_weights: bool = False) -> torch.Tensor | Weighted:
        T = x.shape[-2]
        queries, keys, values = self.W_query(x), self.W_key(x), self.W_value(x)
        scores = _scores(queries, keys).masked_fill(self.mask[:T, :T], float("-inf"))
        weights = self.dropout(torch.softmax(scores, dim=-1))
        context = weights @ values
        return (context, weights) if return_weights else context


class MultiHeadAttention(nn.Module):
    """Causal attention in `num_heads` heads side by side, mixed by an output projection (section 3.6).

    Maps (B, T, d_in) with T at most `context_length` to (B, T, d_out), through PyTorch's fused scaled dot product; with
    `return_weights` through the explicit form, which also gives the weights (B, num_heads, T, T) before dropout. A `mask`
    (B, 1, T, T), True where a token may look, stands in for the causal one (see `document_mask`); `positions` (B, T) for 0 … T - 1.

    Beyond the book, each off by default: `num_kv_heads` fewer key and value heads, each shared by a group of queries
    (Ainslie et al. 2023); `qk_norm` normalises queries and keys, which bounds the scores (Henry et al. 2020);
    `rotary` puts positions into queries and keys (Su et al. 2021); `out_bias` False leaves the output projection without bias.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
        *,
        out_bias: bool = True,
        num_kv_heads: int | None = None,
        qk_norm: bool = False,
        rotary: RotaryEmbedding | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if d_out % num_heads:
            raise ValueError(f"d_out ({d_out}) must be divisible by num_heads ({num_heads})")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_heads ({num_heads}) must be divisible by num_kv_heads ({num_kv_heads})")
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, d_out // num_heads
        self.context_length, self.dropout = context_length, dropout
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, num_kv_heads * self.head_dim, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, num_kv_heads * self.head_dim, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out, bias=out_bias)
        self.query_norm = RMSNorm(self.head_dim) if qk_norm else None
        self.key_norm = RMSNorm(self.head_dim) if qk_norm else None
        self.rotary = rotary

    @overload
    def forward(
        self,
        x: torch.Tensor,
        return_weights: Literal[False] = False,
        cache: LayerCache | None = None,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor: ...
    @overload
    def forward(
        self, x: torch.Tensor, return_weights: Literal[True], *, mask: torch.Tensor | None = None
    ) -> Weighted: ...

    def forward(
        self,
        x: torch.Tensor,
        return_weights: bool = False,
        cache: LayerCache | None = None,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor | Weighted:
        B, T, _ = x.shape
        queries = self.W_query(x).view(B, T, self.num_heads, self.head_dim).transpose(1, 2)  # (B, n_head, T, head_size)
        keys = self.W_key(x).view(B, T, self.num_kv_heads, self.head_dim).transpose(1, 2)
        values = self.W_value(x).view(B, T, self.num_kv_heads, self.head_dim).transpose(1, 2)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if self.rotary is not None:
            positions = positions if cache is None else cache.positions
            queries, keys = self.rotary(queries, positions), self.rotary(keys, positions)
        grouped = self.num_kv_heads != self.num_heads
        dropout = self.dropout if self.training else 0.0
        weights = None
        if return_weights:
            if grouped:
                keys, values = (
                    part.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1) for part in (keys, values)
                )
            hidden = _future(T, x.device) if mask is None else ~mask
            weights = torch.softmax(_scores(queries, keys).masked_fill(hidden, float("-inf")), dim=-1)
            context = F.dropout(weights, dropout) @ values
        else:
            is_causal = mask is None
            if cache is not None:
                keys, values = cache.extend(keys, values)
                mask, is_causal = cache.mask, cache.is_causal
            context = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=grouped
            )
        output = self.out_proj(context.transpose(1, 2).reshape(B, T, -1))
        return output if weights is None else (output, weights)


def number_documents(tokens: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """Return the number of the document that each of `tokens` (B, T) is of: how many have begun in its window, (B, T).

    <|endoftext|> ends a document, but belongs to the next one here, whose first token is predicted from it, as in generation.
    """
    return (tokens == end_of_text).cumsum(dim=1)


def document_mask(documents: torch.Tensor) -> torch.Tensor:
    """Return (B, 1, T, T), True where a token may look: at itself and earlier tokens of its own document of `documents` (B, T)."""
    return (documents[:, :, None] == documents[:, None, :]).tril()[:, None]


def _scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return dot products / sqrt(head size), (…, T, T): undivided, their variance grows with it and softmax saturates."""
    return queries @ keys.transpose(-2, -1) / keys.shape[-1] ** 0.5


def _future(length: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the causal mask (length, length), True where a token would see a later one."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(diagonal=1)
