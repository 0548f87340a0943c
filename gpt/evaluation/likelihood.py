"""How well a model predicts held-out documents: nats per token, and bits per byte.

Bits per byte is the mean loss measured against the text's UTF-8 bytes instead of its tokens, so models with different
tokenizers compare on the same documents. Every token of a split is predicted exactly once, <|endoftext|> after each
document included. Documents are scored apart: a document's figure does not depend on its neighbours.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from gpt.model.transformer import GPTModel
from gpt.tokens.shards import TokenReader

_TOKENS_PER_BATCH = 8192


@dataclass(frozen=True)
class Likelihood:
    """Sums over a split: negative log-likelihood in nats, predicted tokens, UTF-8 bytes of text."""

    nats: float
    tokens: int
    text_bytes: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.text_bytes

    def to_dict(self) -> dict[str, float | int]:
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "bytes": self.text_bytes,
        }


def split_likelihood(
    model: GPTModel,
    reader: TokenReader,
    *,
    autocast: torch.dtype | None = None,
    part: tuple[int, int] = (0, 1),
    give_up: Callable[[], bool] = lambda: False,
) -> Likelihood:
    """Return the likelihood of a whole split, or of the batches that are rank's of (rank, ranks) = `part`, under the model.

    All ranks compute equally many batches, so that a model which is split over them can be measured. `give_up` is asked before
    each; once it says so, what is returned is of a part of the split only.
    """
    documents = (reader.read(start, end - start) for start, end in reader.document_spans())
    nats, tokens = documents_likelihood(
        model, documents, reader.end_of_text, autocast=autocast, part=part, give_up=give_up
    )
    return Likelihood(nats, tokens, reader.text_bytes)


def documents_likelihood(
    model: GPTModel,
    documents: Iterable[np.ndarray],
    end_of_text: int,
    *,
    autocast: torch.dtype | None = None,
    part: tuple[int, int] = (0, 1),
    give_up: Callable[[], bool] = lambda: False,
) -> tuple[float, int]:
    """Return (nats, tokens) of documents, each an int64 array that ends with <|endoftext|>.

    A document is read in windows of block_size that overlap by half: each window predicts what the one before it did not,
    so that all but a document's first tokens are predicted from at least block_size / 2 tokens.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        with torch.no_grad():  # in inference mode, a split model would gather weights that it cannot train with later
            rank, ranks = part
            batches = _batches(documents, end_of_text, model.config.block_size)
            while group := list(islice(batches, ranks)):
                if give_up():
                    break
                inputs, targets = group[rank] if rank < len(group) else _without_targets(*group[0])
                with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                    logits = model(inputs.to(device))  # (B, T, vocab_size)
                losses = F.cross_entropy(
                    logits.flatten(0, 1).float(), targets.to(device).flatten(), ignore_index=-1, reduction="none"
                )
                total += losses.double().sum().item()
                count += int((targets >= 0).sum())
    finally:
        model.train(training)
    return total, count


def _without_targets(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs, torch.full_like(targets, -1)


def _windows(document: np.ndarray, end_of_text: int, block_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (inputs, targets), each at most (block_size,); targets are -1 where an earlier window predicted them."""
    stream = np.concatenate(([end_of_text], document))  # every document is predicted from an <|endoftext|>
    stride = block_size - block_size // 2
    start, predicted = 0, 0
    while predicted < len(document):
        inputs = stream[start : start + block_size]
        targets = stream[start + 1 : start + 1 + block_size].copy()
        inputs = inputs[: len(targets)]
        targets[: predicted - start] = -1
        yield inputs, targets
        predicted = start + len(targets)
        start += stride


def _batches(
    documents: Iterable[np.ndarray], end_of_text: int, block_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield inputs and targets (B, T) with about _TOKENS_PER_BATCH tokens; short windows are padded on the right."""
    size = max(1, _TOKENS_PER_BATCH // block_size)
    held: list[tuple[np.ndarray, np.ndarray]] = []

    def stack() -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(inputs) for inputs, _ in held)
        pads = [longest - len(inputs) for inputs, _ in held]
        inputs = np.stack([np.pad(row, (0, pad)) for (row, _), pad in zip(held, pads, strict=True)])
        targets = np.stack(
            [np.pad(row, (0, pad), constant_values=-1) for (_, row), pad in zip(held, pads, strict=True)]
        )
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    for document in documents:
        for window in _windows(document, end_of_text, block_size):
            held.append(window)
            if len(held) == size:
                yield stack()
                held.clear()
    if held:
        yield stack()
