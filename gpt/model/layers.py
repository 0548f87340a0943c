"""The small parts of a transformer block: normalisation, feed-forward, rotary positions."""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the last dimension, then a learned scale and, as a choice, shift (Ba et al. 2016)."""

    def __init__(self, emb_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, eps=1e-5)


class FeedForward(nn.Module):
    """Two linear layers with GPT-2's GELU (tanh form, Hendrycks and Gimpel 2016) and a four times wider middle."""

    def __init__(self, emb_dim: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.expand = nn.Linear(emb_dim, 4 * emb_dim, bias=bias)
        self.out_proj = nn.Linear(4 * emb_dim, emb_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.out_proj(F.gelu(self.expand(x), approximate="tanh")))


class RotaryEmbedding(nn.Module):
    """Rotates pairs of features by an angle that grows with the position, so that attention sees distances (Su et al. 2021).

    Maps (B, n_head, T, head_size) to the same shape; position 0 stays as it is.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, head_dim: int, context_length: int, base: float = 10_000.0) -> None:
        super().__init__()
        frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)  # (head_size / 2,)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)  # (T, head_size)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        T = x.shape[-2]
        first, second = x.chunk(2, dim=-1)
        rotated = torch.cat((-second, first), dim=-1)
        return (x * self.cos[:T] + rotated * self.sin[:T]).to(x.dtype)
