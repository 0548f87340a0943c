"""How well a model predicts held-out documents: nats per token, and bits per byte.

Bits per byte is the mean loss measured against the text's UTF-8 bytes instead of its tokens, so models with different
tokenizers compare on the same documents. Every token of a split is predicted exactly once, <|endoftext|> after each
document included. Documents are scored apart: a document's figure does not depend on its neighbours.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import torch

from gpt.evaluation.windows import Batch, Window, batches_in_order, cut_windows, group_by_length, stack
from gpt.model.transformer import GPTModel
from gpt.processes.agreement import Share
from gpt.tokens.shards import TokenReader

_TOKENS_AT_A_TIME = 1 << 20
"Of documents whose windows are sorted by length together. It bounds memory; more would hardly pad less."


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
    """Return (nats, tokens) of documents, each an int64 array that ends with <|endoftext|>: their sum, in constant memory."""
    total, count = 0.0, 0
    batches = batches_in_order(documents, end_of_text, model.config.block_size)
    with measuring(model):
        for _, own in _shared(batches, part):
            if give_up():
                break
            total += _batch_nats(model, own, autocast).double().sum().item()
            count += int((own.targets >= 0).sum())
    return total, count


def token_nats(
    model: GPTModel,
    documents: Iterable[np.ndarray],
    end_of_text: int,
    *,
    autocast: torch.dtype | None = None,
    share: Share | None = None,
) -> Iterator[np.ndarray]:
    """Yield the nats of each token of each document, (tokens,) float32, in the order of the documents.

    Windows of like length are computed together, from some documents at a time, so that little is padded. Processes that share
    the work all get the nats of all tokens, the very ones that one alone would compute. What a token gets does not depend on the
    documents beside it, but for the last digits of floating point.
    """
    with measuring(model):
        for portion in _portions(documents):
            yield from _portion_nats(model, portion, end_of_text, autocast, share or Share())


def _portions(documents: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    held: list[np.ndarray] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document)
        if size >= _TOKENS_AT_A_TIME:
            yield held
            held, size = [], 0
    if held:
        yield held


def _portion_nats(
    model: GPTModel,
    documents: list[np.ndarray],
    end_of_text: int,
    autocast: torch.dtype | None,
    share: Share,
) -> list[np.ndarray]:
    windows: list[Window] = []
    firsts = [0]
    for document in documents:
        windows += cut_windows(document, end_of_text, model.config.block_size)
        firsts.append(len(windows))
    predicted = [window.targets >= 0 for window in windows]
    nats = [np.zeros(int(places.sum()), np.float32) for places in predicted]
    groups = list(group_by_length(np.array([len(window.inputs) for window in windows])))
    batches = (stack([windows[place] for place in group]) for group in groups)
    for number, batch in _shared(batches, share.part):
        values = _batch_nats(model, batch, autocast).cpu().numpy()
        if number is not None:
            for row, place in zip(values, groups[number], strict=True):
                nats[place] = row[: len(predicted[place])][predicted[place]]
    ends = np.cumsum([0, *map(len, nats)])[firsts]  # of documents, in tokens
    together = share.add_up(np.concatenate(nats))  # others' are 0 in ours: nothing is rounded
    return [together[first:end] for first, end in pairwise(ends)]


def _shared(batches: Iterable[Batch], part: tuple[int, int]) -> Iterator[tuple[int | None, Batch]]:
    """Yield rank's batches of (rank, ranks) = `part`, each with its number.

    A rank for which none is left gets one without targets and None instead, so that all compute equally many.
    """
    rank, ranks = part
    batches = iter(batches)
    first = 0
    while group := list(islice(batches, ranks)):
        if rank < len(group):
            yield first + rank, group[rank]
        else:
            yield None, group[0]._replace(targets=torch.full_like(group[0].targets, -1))
        first += ranks


def _batch_nats(model: GPTModel, batch: Batch, autocast: torch.dtype | None) -> torch.Tensor:
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        return model.token_nats(batch.inputs.to(device), batch.targets.to(device))  # (B, T)


@contextmanager
def measuring(model: GPTModel) -> Iterator[None]:
    """Let a model neither drop out nor keep anything for a backward pass; afterwards it is as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():  # in inference mode, a split model would gather weights that it cannot train with later
            yield
    finally:
        model.train(training)
