"""Documents as a model reads them: in windows of block_size that overlap by half, some of them at a time.

Each window predicts what the one before it did not, so that every token is predicted once, all but a document's first ones from at
least half a block. A token's context is what stands before it in that window, with the <|endoftext|> that documents begin after.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

TOKENS_PER_BATCH = 8192


class Window(NamedTuple):
    """A piece of a document: what the model reads, and what it predicts after each token of it."""

    inputs: np.ndarray
    "(T,) token ids."
    targets: np.ndarray
    "(T,) token ids; -1 where an earlier window predicted them."


class Batch(NamedTuple):
    """Windows of several documents, the shorter ones padded on the right."""

    inputs: torch.Tensor
    "(B, T) int64"
    targets: torch.Tensor
    "(B, T) int64, -1 where nothing is predicted."


def cut_windows(document: np.ndarray, end_of_text: int, block_size: int) -> Iterator[Window]:
    """Yield a document's windows, each of at most block_size tokens; `document` ends with <|endoftext|>."""
    stream = np.concatenate(([end_of_text], document))
    stride = block_size - block_size // 2
    start, predicted = 0, 0
    while predicted < len(document):
        inputs = stream[start : start + block_size]
        targets = stream[start + 1 : start + 1 + block_size].copy()
        inputs = inputs[: len(targets)]
        targets[: predicted - start] = -1
        yield Window(inputs, targets)
        predicted = start + len(targets)
        start += stride


def context_lengths(tokens: int, block_size: int) -> np.ndarray:
    """Return from how many tokens each of a document's tokens is predicted: (tokens,) in [1, block_size]."""
    stride = block_size - block_size // 2
    number = np.arange(1, tokens + 1)  # of tokens before it, <|endoftext|> counted
    return number - np.maximum(0, -(-(number - block_size) // stride)) * stride


def stack(windows: list[Window]) -> Batch:
    """Return windows as one batch."""
    shape = (len(windows), max(len(window.inputs) for window in windows))
    inputs, targets = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    for row, window in enumerate(windows):
        inputs[row, : len(window.inputs)] = window.inputs
        targets[row, : len(window.targets)] = window.targets
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))


def batches_in_order(documents: Iterable[np.ndarray], end_of_text: int, block_size: int) -> Iterator[Batch]:
    """Yield batches of about TOKENS_PER_BATCH tokens, windows in the order of the documents."""
    size = max(1, TOKENS_PER_BATCH // block_size)
    held: list[Window] = []
    for document in documents:
        for window in cut_windows(document, end_of_text, block_size):
            held.append(window)
            if len(held) == size:
                yield stack(held)
                held.clear()
    if held:
        yield stack(held)


def group_by_length(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield which windows make a batch, the longest first: (B,) places in `lengths`, padded at most TOKENS_PER_BATCH together."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        size = max(1, TOKENS_PER_BATCH // int(lengths[order[0]]))
        yield order[:size]
        order = order[size:]
