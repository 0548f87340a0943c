"""The GPT: embeddings, transformer blocks, logits (Raschka, chapter 4; Radford et al. 2019)."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints, overload

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gpt.model.attention import MultiHeadAttention, document_mask
from gpt.model.cache import KeyValueCache, LayerCache
from gpt.model.layers import FeedForward, GatedFeedForward, LayerNorm, RMSNorm, RotaryEmbedding, sinusoidal_positions
from gpt.model.loss import linear_cross_entropy, token_cross_entropy

TOKEN_TABLES = ("tok_emb.weight", "out_head.weight")
"Weights with a row for each token, and below them the padding, which is zero from the first step to the last."


@dataclass(frozen=True)
class GPTConfig:
    """The architecture: section `model` of params.yaml and the tokenizer's vocabulary. Its defaults are GPT-2's choices."""

    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    dropout: float = 0.0
    bias: bool = True
    position: Literal["learned", "sinusoidal", "rotary"] = "learned"
    tie_embeddings: bool = True
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "relu2", "swiglu"] = "gelu"
    n_kv_head: int = 0
    "Key and value heads; 0: as many as n_head."
    qk_norm: bool = False
    init: Literal["gpt2", "zero"] = "gpt2"
    pad_vocab: int = 1
    "Embedding and head have a multiple of so many rows; no token has those above vocab_size, and no logits are made of them."

    def __post_init__(self) -> None:
        for name, annotation in get_type_hints(type(self)).items():
            if get_origin(annotation) is Literal and (value := getattr(self, name)) not in get_args(annotation):
                raise ValueError(f"{name} = {value!r} is none of {', '.join(get_args(annotation))}")
        if self.position == "rotary" and self.head_size % 2:
            raise ValueError(f"rotary positions need an even head size, not n_embd / n_head = {self.head_size}")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and of the head."""
        return -(-self.vocab_size // self.pad_vocab) * self.pad_vocab

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each normalised before and added to its input: (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig, rotary: RotaryEmbedding | None) -> None:
        super().__init__()
        width = config.n_embd
        self.norm1 = _norm(config)
        self.att = MultiHeadAttention(
            width,
            width,
            config.block_size,
            config.dropout,
            config.n_head,
            config.bias,
            out_bias=config.bias,
            num_kv_heads=config.kv_heads,
            qk_norm=config.qk_norm,
            rotary=rotary,
        )
        self.norm2 = _norm(config)
        if config.activation == "swiglu":
            self.ff = GatedFeedForward(width, config.dropout, config.bias)
        else:
            self.ff = FeedForward(width, config.dropout, config.bias, config.activation)
        self.drop_shortcut = nn.Dropout(config.dropout)

    def forward(
        self,
        x: torch.Tensor,
        cache: LayerCache | None = None,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = x + self.drop_shortcut(self.att(self.norm1(x), cache=cache, mask=mask, positions=positions))
        return x + self.ff(self.norm2(x))


class GPTModel(nn.Module):
    """Token ids (B, T) to logits (B, T, vocab_size), T at most block_size; with targets, to their loss."""

    position_table: torch.Tensor | None

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.pos_emb = nn.Embedding(config.block_size, config.n_embd) if config.position == "learned" else None
        sines = sinusoidal_positions(config.block_size, config.n_embd) if config.position == "sinusoidal" else None
        self.register_buffer("position_table", sines, persistent=False)
        self.drop_emb = nn.Dropout(config.dropout)
        rotary = RotaryEmbedding(config.head_size, config.block_size) if config.position == "rotary" else None
        self.trf_blocks = nn.ModuleList([TransformerBlock(config, rotary) for _ in range(config.n_layer)])
        self.final_norm = _norm(config)
        # A tied head is the embedding's weight itself, not a second name for it: a state dict holds each tensor once.
        self.out_head = (
            None if config.tie_embeddings else nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)
        )
        self.checkpoint_activations = False
        "Compute a block's activations again in backward instead of keeping them: less memory, a third more time."

    @overload
    def forward(
        self, tokens: torch.Tensor, *, documents: torch.Tensor | None = None, positions: torch.Tensor | None = None
    ) -> torch.Tensor: ...
    @overload
    def forward(
        self,
        tokens: torch.Tensor,
        targets: torch.Tensor,
        *,
        scale: float = 1.0,
        documents: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        wanted: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def forward(
        self,
        tokens: torch.Tensor,
        targets: torch.Tensor | None = None,
        *,
        scale: float = 1.0,
        documents: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits, or with `targets` (B, T) the scaled loss to minimise and the nats, both summed over them.

        `documents` and `positions` are as in `hidden`. With `wanted` (N,), places in the flattened (B T), only tokens there
        have targets, which are (N,) then: the head computes no others.
        """
        hidden = self.hidden(tokens, documents=documents, positions=positions)
        if targets is None:
            return self.logits(hidden)
        states = hidden.flatten(0, 1)
        return linear_cross_entropy(
            states if wanted is None else states[wanted],
            self.head_weight,
            targets.flatten(),
            vocab_size=self.config.vocab_size,
            scale=scale,
        )

    def hidden(
        self,
        tokens: torch.Tensor,
        cache: KeyValueCache | None = None,
        *,
        documents: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the normalised states (B, T, C) that the head turns into logits.

        With a cache the tokens follow the ones it holds, which are not computed again; the caller advances it. Without one, a token
        attends only to tokens of the same number in `documents` (B, T), and its position is that in `positions` (B, T), if given.
        """
        assert cache is None or documents is positions is None, "a cache knows of no documents, and positions itself"
        T = tokens.shape[1]
        if T > self.config.block_size:
            raise ValueError(f"{T} tokens do not fit into block_size = {self.config.block_size}")
        positions = cache.begin(T) if cache is not None else positions
        # With a tied head, the embedding's gradient is added to the head's: only the rows of tokens that occurred, not a
        # second table of zeros.
        sparse = self.out_head is None and torch.is_grad_enabled() and isinstance(self.tok_emb, nn.Embedding)
        x = F.embedding(tokens, self.tok_emb.weight, sparse=sparse)  # (B, T, C)
        table = self.position_table if self.pos_emb is None else self.pos_emb.weight
        if table is not None:
            x = x + (table[:T] if positions is None else table[positions])
        x = self.drop_emb(x)
        # Built once for all blocks. Fused kernels need no causal mask to skip later tokens, but read this one: B × T × T a block.
        mask = None if documents is None else document_mask(documents)
        for number, block in enumerate(self.trf_blocks):
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, mask=mask, positions=positions, use_reentrant=False)
            else:
                x = block(x, None, mask, positions) if cache is None else block(x, cache.layers[number])
        return self.final_norm(x)

    def token_nats(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return each target's negative log-likelihood in nats: (B, T) fp32, 0 where a target is -1. It has no gradient."""
        hidden = self.hidden(tokens).flatten(0, 1)
        nats = token_cross_entropy(hidden, self.head_weight, targets.flatten(), vocab_size=self.config.vocab_size)
        return nats.view_as(targets)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits (…, vocab_size) of hidden states (…, C)."""
        return F.linear(hidden, self.head_weight)[..., : self.config.vocab_size]

    @property
    def head_weight(self) -> torch.Tensor:
        """The output head's weight (padded_vocab_size, C)."""
        return self.tok_emb.weight if self.out_head is None else self.out_head.weight

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KeyValueCache:
        """Return an empty cache for `capacity` tokens (block_size, if not given) of `batch_size` rows."""
        weight, config = self.tok_emb.weight, self.config
        return KeyValueCache(
            batch_size,
            n_layer=config.n_layer,
            n_kv_head=config.kv_heads,
            head_size=config.head_size,
            capacity=config.block_size if capacity is None else capacity,
            device=weight.device,
            dtype=weight.dtype,
        )

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw the weights from a seed.

        `gpt2`: N(0, 0.02), projections into the shortcuts smaller by sqrt(2 n_layer), so that the sum over blocks
        keeps its variance. `zero`: projections into the shortcuts and an untied head begin at zero, so that every block
        begins as the identity, and other matrices keep the variance of what goes in (N(0, 1 / sqrt(fan_in))).
        """
        generator = torch.Generator().manual_seed(seed)
        into_shortcut = (2 * self.config.n_layer) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if name.endswith("scale") else 0.0)
                continue
            std = 0.02
            if self.config.init == "gpt2":
                std *= into_shortcut if name.endswith("out_proj.weight") else 1.0
            elif name.endswith(("out_proj.weight", "out_head.weight")):
                std = 0.0
            elif "emb" not in name:
                std = 1 / math.sqrt(parameter.shape[1])
            if name in TOKEN_TABLES:  # padding takes no numbers from the others, and is zero
                parameter[self.config.vocab_size :] = 0.0
                parameter = parameter[: self.config.vocab_size]
            parameter.normal_(0.0, std, generator=generator)

    def count_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def _norm(config: GPTConfig) -> nn.Module:
    return RMSNorm(config.n_embd) if config.norm == "rmsnorm" else LayerNorm(config.n_embd, config.bias)
