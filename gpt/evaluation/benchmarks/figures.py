"""What answers to benchmarks are worth: a table of all choices' scores, and the figures that are made of it."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gpt.evaluation.benchmarks.items import Benchmark
from gpt.evaluation.scores import Items


def tabulate(benchmarks: Sequence[Benchmark], nats: np.ndarray, greedy: np.ndarray) -> Items:
    """Return the table of what all choices scored, (choices,) in the order of their requests, and were written greedily."""
    owned = [(benchmark, item, clean) for benchmark in benchmarks
             for item, clean in zip(benchmark.items, benchmark.clean, strict=True)]  # fmt: skip
    firsts = np.cumsum([0, *(len(item.choices) for _, item, _ in owned)])
    answers = np.array([item.answer for _, item, _ in owned], np.int64)
    sizes = [np.array([len(choice.continuation.encode()) for choice in item.choices], np.int64) for _, item, _ in owned]
    return Items(
        benchmark=np.array([benchmark.name for benchmark, *_ in owned], object),
        id=np.array([item.id for _, item, _ in owned], object),
        clean=np.array([clean for *_, clean in owned], np.bool_),
        answer=answers,
        chance=np.array([chance_of(len(item.choices)) for _, item, _ in owned], np.float64),
        nats=[np.asarray(nats[first:end]) for first, end in pairwise(firsts)],
        bytes=sizes,
        greedy=np.asarray(greedy[firsts[:-1] + answers], np.bool_),
    )


def chance_of(choices: int) -> float:
    """Return the accuracy of guessing; of an item with one choice, which must be written, it is 0."""
    return 1 / choices if choices > 1 else 0.0


def summarise(items: Items, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the figures of each benchmark, under `clean` those of its clean items alone (None if there are none)."""
    summary: dict[str, dict[str, Any]] = {}
    for name in names:
        own = items.of_benchmark(name)
        clean = own.clean
        summary[name] = {
            "items": len(own),
            "clean_items": int(clean.sum()),
            **_figures(own, np.ones(len(own), np.bool_)),
            "clean": _figures(own, clean) if clean.any() else None,
        }
    return summary


def _figures(items: Items, chosen: np.ndarray) -> dict[str, float | None]:
    """Return the figures of the chosen items, (items,) bool.

    accuracy: share of items whose right choice is the likeliest; of items with one choice, that greedy decoding writes.
    accuracy_norm: likeliest per byte. standard_error: of accuracy, None for a single item. chance: what guessing would have.
    bits_per_byte: of the right choices. perplexity: exp of the mean nats of the right choice, of items with one choice only.
    """
    count = int(chosen.sum())
    accuracy = float(items.correct[chosen].mean())
    nats, sizes = items.answer_nats[chosen], items.answer_bytes[chosen]
    is_written = all(len(each) == 1 for each in items.nats)
    return {
        "accuracy": accuracy,
        "accuracy_norm": float(items.correct_norm[chosen].mean()),
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / (count - 1)) if count > 1 else None,
        "chance": float(items.chance[chosen].mean()),
        "bits_per_byte": float(nats.sum() / math.log(2) / sizes.sum()),
        "perplexity": _exp(float(nats.mean())) if is_written else None,
    }


def _exp(value: float) -> float | None:
    return math.exp(value) if value < 700 else None  # above, no float holds it


def centred_score(summary: dict[str, dict[str, Any]]) -> float | None:
    """Return the mean over benchmarks of (accuracy - chance) / (1 - chance), as nanochat's CORE: 0 is guessing, 1 all right.

    Benchmarks with one choice (lambada, coqa) enter with the share of answers that greedy decoding writes, and chance 0.
    """
    centred = [(each["accuracy"] - each["chance"]) / (1 - each["chance"]) for each in summary.values()]
    return sum(centred) / len(centred) if centred else None
