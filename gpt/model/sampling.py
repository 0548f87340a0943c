"""Choosing the next token from a model's logits: temperature, top-k, top-p and others, with one draw of a row's own generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; raises `ValueError` for values out of range. Operations come in the order of the fields."""

    max_new_tokens: int
    repetition_penalty: float = 1.0
    "Divides positive and multiplies negative logits of tokens that the row holds, prompt included (Keskar et al. 2019); 1: none."
    temperature: float = 1.0
    "Divides the logits; 0 takes the likeliest token always."
    top_k: int = 0
    "Sample among the k likeliest tokens; 0: among all."
    top_p: float = 1.0
    "Sample among the fewest likeliest tokens that together have this probability (Holtzman et al. 2020); 1: among all."
    min_p: float = 0.0
    "Sample among tokens of at least this times the likeliest one's probability (Nguyen et al. 2024); 0: among all."
    stop: tuple[str, ...] = ()
    "Texts end before the first of these strings that is complete."
    seed: int = 0
    "Row i of a batch draws as a lone prompt with seed + i does."

    def __post_init__(self) -> None:
        allowed = {
            "max_new_tokens": self.max_new_tokens >= 1,
            "repetition_penalty": 0 < self.repetition_penalty < float("inf"),
            "temperature": 0 <= self.temperature < float("inf"),
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "stop": "" not in self.stop,
        }
        for name, holds in allowed.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r} is out of range")


def choose_tokens(
    logits: torch.Tensor, sampling: Sampling, seen: torch.Tensor | None, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Choose a token for each row from logits (B, vocab_size); `seen` marks the tokens that it holds. Returns (B,)."""
    if seen is not None:
        penalty = sampling.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # The maximum is subtracted and the temperature bounded, so that no quotient overflows.
    logits = (logits - logits.amax(-1, keepdim=True)) / min(max(sampling.temperature, 1e-6), 1e6)
    tokens = None
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, tokens = logits.topk(sampling.top_k)
    elif sampling.top_p < 1:
        logits, tokens = logits.sort(descending=True, stable=True)
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1:  # in descending order: a token stays if those before it add up to less
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    # Inverse transform sampling: a row draws one number a step from its own generator, and takes the token at which the
    # cumulative probability exceeds it.
    draws = torch.stack([torch.rand((), dtype=torch.float64, generator=generator) for generator in generators])
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    draws = draws.to(sums.device)[:, None] * sums[:, -1:]
    chosen = torch.searchsorted(sums, draws, right=True).clamp_(max=sums.shape[-1] - 1)  # (B, 1)
    return (chosen if tokens is None else tokens.gather(-1, chosen))[:, 0]
