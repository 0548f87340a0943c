"""Is one model better than another? Paired differences on the same pieces of text, and how far chance alone could carry them.

Statistics only: functions of scores and a seed. Every difference is the candidate's gain: positive where the candidate is better.
"""

from dataclasses import asdict, dataclass
from typing import Any

from gpt.evaluation.scores import Items, Passages


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
    "One-sided probability that the candidate is not better."
    candidate: float
    "The measure itself."
    champion: float
    pieces: int
    "Items or passages compared."
    blocks: int
    "Independent draws of a resample: items, documents, or stretches of passages."
    resampled: str
    "What was drawn: items | documents | passages. It says what the interval is about."

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; an infinite limit is None."""
        return {name: None if value in (float("inf"), -float("inf")) else value for name, value in asdict(self).items()}


def compare_items(
    candidate: Items, champion: Items, *, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> dict[str, dict[str, Difference]]:
    """Return {benchmark: {accuracy, accuracy_norm, bits_per_byte: difference}}, and "centred": {accuracy: difference}.

    Bits per byte are those of the right answers. The centred accuracy is the mean over benchmarks of
    (accuracy - chance) / (1 - chance), items resampled within their benchmark.
    Raises `UserError` that names the first item which is not in both, or whose likelihood is not finite.
    """
    raise NotImplementedError


def compare_passages(
    candidate: Passages, champion: Passages, *, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> Difference:
    """Return the difference in bits per byte over the passages of one split.

    Raises `UserError` that names the first passage which is not in both, or whose likelihood is not finite.
    """
    raise NotImplementedError
