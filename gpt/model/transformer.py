"""The GPT: embeddings, transformer blocks, logits (Raschka, chapter 4; Radford et al. 2019)."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from gpt.model.attention import MultiHeadAttention
from gpt.model.layers import FeedForward, LayerNorm, RotaryEmbedding


@dataclass(frozen=True)
class GPTConfig:
    """The architecture: section `model` of params.yaml and the tokenizer's vocabulary."""

    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    dropout: float
    bias: bool
    position: Literal["learned", "rotary"]
    tie_embeddings: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each normalised before and added to its input: (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.n_embd
        rotary = RotaryEmbedding(width // config.n_head, config.block_size) if config.position == "rotary" else None
        self.norm1 = LayerNorm(width, config.bias)
        self.att = MultiHeadAttention(
            width, width, config.block_size, config.dropout, config.n_head, config.bias, rotary=rotary
        )
        self.norm2 = LayerNorm(width, config.bias)
        self.ff = FeedForward(width, config.dropout, config.bias)
        self.drop_shortcut = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_shortcut(self.att(self.norm1(x)))
        return x + self.ff(self.norm2(x))


class GPTModel(nn.Module):
    """Token ids (B, T) to logits (B, T, vocab_size); T is at most block_size."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos_emb = nn.Embedding(config.block_size, config.n_embd) if config.position == "learned" else None
        self.drop_emb = nn.Dropout(config.dropout)
        self.trf_blocks = nn.ModuleList([TransformerBlock(config) for _ in range(config.n_layer)])
        self.final_norm = LayerNorm(config.n_embd, config.bias)
        # A tied head is the embedding's weight itself, not a second name for it: a state dict holds each tensor once.
        self.out_head = None if config.tie_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        T = tokens.shape[1]
        if T > self.config.block_size:
            raise ValueError(f"{T} tokens do not fit into block_size = {self.config.block_size}")
        x = self.tok_emb(tokens)  # (B, T, C)
        if self.pos_emb is not None:
            x = x + self.pos_emb.weight[:T]
        x = self.drop_emb(x)
        for block in self.trf_blocks:
            x = block(x)
        x = self.final_norm(x)
        return F.linear(x, self.tok_emb.weight) if self.out_head is None else self.out_head(x)  # (B, T, vocab_size)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw the weights as GPT-2 does: N(0, 0.02), projections into the shortcuts smaller by sqrt(2 n_layer)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if name.endswith("scale") else 0.0)
            else:
                shrink = (2 * self.config.n_layer) ** -0.5 if name.endswith("out_proj.weight") else 1.0
                parameter.normal_(0.0, 0.02 * shrink, generator=generator)

    def count_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
