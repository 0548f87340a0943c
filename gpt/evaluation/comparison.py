"""Is one model better than another? Paired differences on the same pieces of text, and how far chance alone could carry them.

Statistics only: functions of scores and a seed. Every difference is the candidate's gain: positive where the candidate is better.

The interval is that of a paired bootstrap (Efron and Tibshirani 1993; Koehn 2004): pieces are drawn with replacement, each with
what both models scored on it. For few draws its percentiles are widened as Student's t is (Hesterberg 2015: expanded percentile).
docs/evaluation.md says how often such intervals hold the true difference, and how often a gate that asks for them is wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from gpt.evaluation.pairs import pair_items, pair_passages
from gpt.evaluation.scores import Items, Passages

FEWEST_BLOCKS = 8
"With fewer draws no interval is given: a bootstrap's would be too narrow whatever is done to it."
_FEWEST_DOCUMENTS = 10
"From so many on, documents are what is drawn."
_STRETCH = 8
"Passages that are drawn together: gains of neighbours correlate (0.1 to 0.4 measured), those two apart do not."
_NUMBERS_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class Difference:
    """How much better the candidate is than the champion, and the interval that holds the true difference."""

    mean: float
    "The gain on these pieces, in the measure's unit: positive where the candidate is better."
    low: float
    "-inf where there are too few pieces to tell."
    high: float
    confidence: float
    "Of the interval (low, high): 0.95 means that it holds the true difference in 95 of 100 comparisons."
    not_better: float
    "One-sided probability that the candidate is not better: the share of resamples in which it is not."
    candidate: float
    "The measure itself."
    champion: float
    pieces: int
    "Items or passages compared."
    blocks: int
    "How many a resample draws: items, documents, or stretches of passages."
    resampled: str
    "What is drawn: items | documents | passages. It says what the interval is about."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; an infinite limit is None."""
        return {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in asdict(self).items()
        }


class Draw(NamedTuple):
    """What resamples draw from a group, with replacement: an item, a document or a stretch of passages each."""

    rows: np.ndarray
    "(candidates, columns): sums over the pieces of each."
    size: int
    "How many rows a resample draws."


def compare_items(
    candidate: Items, champion: Items, *, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> dict[str, dict[str, Difference]]:
    """Return {benchmark: {accuracy, accuracy_norm, bits_per_byte: difference}}, and among them "centred": {accuracy: difference}.

    Bits per byte are those of the right answers. The centred accuracy is the mean over benchmarks of
    (accuracy - chance) / (1 - chance). Items are drawn within their benchmark, so that intervals are about other items of the same
    benchmarks. Raises `UserError` that names the first item which is not in both, or whose likelihood is not finite.
    """
    candidate, champion = pair_items(candidate, champion)
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, Difference]] = {}
    centred = []
    for name in sorted(set(candidate.benchmark)):
        ours, theirs = candidate.of_benchmark(name), champion.of_benchmark(name)
        sizes = ours.answer_bytes * math.log(2)
        rows = np.stack(
            [
                ours.correct.astype(float) - theirs.correct,
                ours.correct_norm.astype(float) - theirs.correct_norm,
                theirs.answer_nats - ours.answer_nats,
                sizes,
            ],
            axis=1,
        )
        count = len(rows)
        drawn = resampled_sums([Draw(rows, count)], resamples, rng)
        describe = partial(describe_gain, pieces=count, blocks=count, resampled="items", confidence=confidence)
        found[name] = {
            "accuracy": describe(drawn[:, 0] / count, ours.correct.mean(), theirs.correct.mean()),
            "accuracy_norm": describe(drawn[:, 1] / count, ours.correct_norm.mean(), theirs.correct_norm.mean()),
            "bits_per_byte": describe(
                drawn[:, 2] / drawn[:, 3],
                ours.answer_nats.sum() / sizes.sum(),
                theirs.answer_nats.sum() / sizes.sum(),
                less_is_better=True,
            ),
        }
        if (chance := ours.chance.mean()) < 1:
            accuracies = np.array([ours.correct.mean(), theirs.correct.mean()])
            centred.append((count, (accuracies - chance) / (1 - chance), drawn[:, 0] / count / (1 - chance)))
    if centred:
        counts, figures, gains = zip(*centred, strict=True)
        difference = describe_gain(
            np.mean(gains, axis=0),
            *np.mean(figures, axis=0),
            pieces=sum(counts),
            blocks=min(counts),
            resampled="items",
            confidence=confidence,
        )
        found["centred"] = {"accuracy": difference}
    return found


def compare_passages(
    candidate: Passages, champion: Passages, *, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> Difference:
    """Return the difference in bits per byte over the passages of one split.

    Of many documents, documents are drawn, each with all its passages: the interval is about other documents, chosen as these were.
    Of few, as two plays, nothing can be said about others. Then stretches of eight passages (16 KiB, beginning at any, the
    end followed by the beginning: Politis and Romano 1992) are drawn within each document, and the interval is about other passages
    of these very documents. "Many" are 10, counted as equally long ones that would tell as much, (Σ bytes)² / Σ bytes².
    Raises `UserError` that names the first passage which is not in both, or whose likelihood is not finite.
    """
    candidate, champion = pair_passages(candidate, champion)
    sizes = candidate.bytes * math.log(2)
    rows = np.stack([champion.nats - candidate.nats, sizes], axis=1)
    firsts = np.flatnonzero(np.append(True, candidate.document[1:] != candidate.document[:-1]))
    draws, blocks, groups, kind = _draw_passages(np.split(rows, firsts[1:]))
    drawn = resampled_sums(draws, resamples, np.random.default_rng(seed))
    return describe_gain(
        drawn[:, 0] / drawn[:, 1],
        candidate.nats.sum() / sizes.sum(),
        champion.nats.sum() / sizes.sum(),
        less_is_better=True,
        pieces=len(rows),
        blocks=blocks,
        groups=groups,
        resampled=kind,
        confidence=confidence,
    )


def resampled_sums(draws: Sequence[Draw], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the columns' sums in resamples, each drawn within every group: (resamples, columns)."""
    total = np.zeros((resamples, draws[0].rows.shape[1]))
    for rows, size in draws:
        candidates = len(rows)
        if candidates == 1:  # nothing to choose from
            total += rows[0] * size
            continue
        at_a_time = max(1, _NUMBERS_AT_A_TIME // max(candidates, size))
        for first in range(0, resamples, at_a_time):
            some = min(at_a_time, resamples - first)
            chosen = rng.integers(0, candidates, (some, size)) + candidates * np.arange(some)[:, None]
            times = np.bincount(chosen.ravel(), minlength=some * candidates).reshape(some, candidates)
            total[first : first + some] += times @ rows
    return total


def describe_gain(
    gains: np.ndarray,
    candidate: float,
    champion: float,
    *,
    less_is_better: bool = False,
    pieces: int,
    blocks: int,
    groups: int = 1,
    resampled: str,
    confidence: float,
) -> Difference:
    """Return the difference of two figures, with the interval that its resampled `gains` (resamples,) give.

    `blocks` were drawn in a resample, within so many `groups`.
    """
    mean = champion - candidate if less_is_better else candidate - champion
    if not gains.any():
        low = high = 0.0  # no piece that tells them apart was seen
    elif blocks - groups < FEWEST_BLOCKS - 1:
        low, high = -math.inf, math.inf
    else:
        # Percentiles as far out as t's are beyond the normal's; and a resample's variance is over n, not n - 1, in each group.
        free = blocks - groups
        tail = float(ndtr(math.sqrt(blocks / free) * stdtrit(free, (1 - confidence) / 2)))
        low, high = np.quantile(gains, (tail, 1 - tail)).tolist()
    return Difference(
        mean=float(mean),
        low=low,
        high=high,
        confidence=confidence,
        not_better=float((gains <= 0).mean()),
        candidate=float(candidate),
        champion=float(champion),
        pieces=pieces,
        blocks=blocks,
        resampled=resampled,
    )


def _draw_passages(documents: list[np.ndarray]) -> tuple[list[Draw], int, int, str]:
    """Return what is drawn of documents, (passages, columns) with sizes last: draws, how many tell, in how many groups, kind."""
    totals = np.array([document.sum(axis=0) for document in documents])
    sizes = totals[:, -1]
    alike = math.floor(sizes.sum() ** 2 / (sizes**2).sum() + 1e-9)  # Kish (1965)
    lengths = [len(document) for document in documents if len(document) > _STRETCH]
    blocks = sum(lengths) // _STRETCH
    if alike >= _FEWEST_DOCUMENTS or blocks - len(lengths) < alike:
        return [Draw(totals, len(totals))], alike, 1, "documents"
    return [_stretches(document) for document in documents], blocks, len(lengths), "passages"


def _stretches(document: np.ndarray) -> Draw:
    """Return the stretches of a document's passages that begin at each of them, the end followed by the beginning."""
    passages = len(document)
    if passages <= _STRETCH:
        return Draw(document.sum(axis=0, keepdims=True), 1)
    rows = sum((np.roll(document, -shift, axis=0) for shift in range(1, _STRETCH)), document)
    size = -(-passages // _STRETCH)
    # So many stretches are longer than the document: their sum is to have its mean, and scatter as sums of its length do.
    length, mean = passages / (size * _STRETCH), rows.mean(axis=0)
    return Draw(mean * length + (rows - mean) * math.sqrt(length), size)
