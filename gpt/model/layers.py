"""The small parts of a transformer block: normalisation, feed-forward, positions. Each is a choice in params.yaml."""

import math
from typing import Any

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


class RMSNorm(nn.Module):
    """Unit root mean square over the last dimension, then a learned scale (Zhang and Sennrich 2019)."""

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Autocast gives queries and keys in half precision. torch's fused kernel needs one type for both, and its other form
        # computes in fp32 too: the same digits, but slower and with a warning. In fp32 nothing is converted.
        return F.rms_norm(x.to(self.scale.dtype), self.scale.shape, self.scale, eps=1e-5).to(x.dtype)


class FeedForward(nn.Module):
    """Two linear layers with a four times wider middle: (B, T, C) to (B, T, C).

    `gelu` is GPT-2's activation (tanh form, Hendrycks and Gimpel 2016), `relu2` the square of ReLU (So et al. 2021).
    """

    def __init__(self, emb_dim: int, dropout: float, bias: bool, activation: str = "gelu") -> None:
        super().__init__()
        self.activation = activation
        self.expand = nn.Linear(emb_dim, 4 * emb_dim, bias=bias)
        self.out_proj = nn.Linear(4 * emb_dim, emb_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.expand(x)
        x = relu2(x) if self.activation == "relu2" else gelu(x)
        return self.dropout(self.out_proj(x))


def gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh form. tanh(u) = 2 sigmoid(2u) - 1, and compilers vectorise exp better than tanh: half the time."""
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    slope = 2 * (2 / math.pi) ** 0.5
    return x * torch.sigmoid(x * (slope + slope * 0.044715 * (x * x)))


def relu2(x: torch.Tensor) -> torch.Tensor:
    """The square of ReLU, with a backward pass of its own, which takes half the time of square()'s: it reads memory less often."""
    return _ReLU2.apply(x)


class _ReLU2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (positive,) = ctx.saved_tensors
        return torch.add(positive, positive).mul_(gradients[0])


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): one expansion gates the other; 8/3 wide, so that it has a FeedForward's number of weights."""

    def __init__(self, emb_dim: int, dropout: float, bias: bool) -> None:
        super().__init__()
        hidden = -(-8 * emb_dim // 3 // 8) * 8  # rounded up to a multiple of 8, which vector units like
        self.gate = nn.Linear(emb_dim, hidden, bias=bias)
        self.expand = nn.Linear(emb_dim, hidden, bias=bias)
        self.out_proj = nn.Linear(hidden, emb_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.out_proj(F.silu(self.gate(x)) * self.expand(x)))


class RotaryEmbedding(nn.Module):
    """Rotates pairs of features by an angle that grows with the position, so that attention sees distances (Su et al. 2021).

    Maps (B, n_head, T, head_size) to the same shape; position 0 stays as it is. `positions` are those of the T tokens,
    (T,) or (B, T); without them 0 … T - 1. The pairs are the halves' features, as in Llama's checkpoints.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, head_dim: int, context_length: int, base: float = 10_000.0) -> None:
        super().__init__()
        frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)  # (head_size / 2,)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)  # (T, head_size)
        # x.roll by half a head swaps the features of each pair; the first one's sine is negative: a rotation.
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), dim=1), persistent=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        if positions is None:
            T = x.shape[-2]
            cos, sin = self.cos[:T], self.sin[:T]
        else:
            cos, sin = self.cos[positions], self.sin[positions]
            if positions.dim() == 2:
                cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (B, 1, T, head_size)
        return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)


def sinusoidal_positions(context_length: int, emb_dim: int) -> torch.Tensor:
    """Return fixed position embeddings (context_length, emb_dim): sines and cosines of falling frequency (Vaswani et al. 2017)."""
    frequencies = 10_000.0 ** (-torch.arange(0, emb_dim, 2, dtype=torch.float32) / emb_dim)
    angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :emb_dim]
