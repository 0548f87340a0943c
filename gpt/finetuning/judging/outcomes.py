"""What a fine-tuned model did with each test example, and beside it what its floor did: figures and their intervals follow from it.

The floor is what a model must be better than to be worth anything: naive Bayes over words for classes, the base model for answers,
a coin for preferences.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from gpt.evaluation.comparison import Difference, Draw, describe_gain, resampled_sums
from gpt.evaluation.scores import Table
from gpt.finetuning.data.examples import Example, asked_of

BITS_PER_BYTE, ACCURACY, PREFERRED, EXACT_MATCH = "bits_per_byte", "accuracy", "preferred", "exact_match"
"Measures; exact matches are of each task, as exact_match.TASK."
AGAIN = "run `gpt finetune evaluate` again"
_RESAMPLES = 10_000


@dataclass(frozen=True, eq=False)
class Outcomes(Table):
    """A row for each example and measure; a figure is the sum of values over that of sizes: bits over bytes, right over all."""

    example: np.ndarray
    "As `name_example` says."
    measure: np.ndarray
    value: np.ndarray
    size: np.ndarray
    floor_value: np.ndarray
    floor_size: np.ndarray
    "0 where there is no floor."

    SCHEMA: ClassVar = pa.schema(
        [
            ("example", pa.string()),
            ("measure", pa.string()),
            *((name, pa.float64()) for name in ("value", "size", "floor_value", "floor_size")),
        ]
    )

    @property
    def measures(self) -> list[str]:
        return sorted(set(self.measure.tolist()))

    def of(self, measure: str) -> "Outcomes":
        return self.take(np.flatnonzero(self.measure == measure))

    @property
    def examples(self) -> set[str]:
        return set(self.example.tolist())


def name_example(example: Example) -> str:
    """Return a name of an example that is the same wherever it stands: a hash of all of it."""
    return _hashed(json.dumps(example, sort_keys=True, ensure_ascii=False))


def name_question(example: Example) -> str:
    """Return a name of what an example asks, whatever is answered."""
    return _hashed(asked_of(example))


def tabulate(
    measure: str,
    examples: Sequence[Example],
    values: np.ndarray,
    sizes: np.ndarray | None = None,
    floor: tuple[np.ndarray, np.ndarray] | None = None,
) -> Outcomes:
    """Return the rows of a measure; without `sizes` each example counts as one."""
    count = len(examples)
    floors = (np.zeros(count), np.zeros(count)) if floor is None else floor
    numbers = (np.asarray(each, np.float64) for each in (values, np.ones(count) if sizes is None else sizes, *floors))
    names = np.array([name_example(example) for example in examples], object)
    return Outcomes(names, np.full(count, measure, object), *numbers)


def less_is_better(measure: str) -> bool:
    return measure == BITS_PER_BYTE


def against_floor(outcomes: Outcomes, *, seed: int, confidence: float) -> Difference | None:
    """Return how much better than its floor a model is on the rows of one measure; None where there is no floor."""
    if not outcomes.floor_size.sum():
        return None
    theirs = np.stack([outcomes.floor_value, outcomes.floor_size], axis=1)
    return _compare(outcomes, theirs, seed=seed, confidence=confidence)


def against_other(outcomes: Outcomes, other: Outcomes, *, seed: int, confidence: float) -> Difference | None:
    """Return how much better a model is than another on the examples of one measure that both have; None if there is none."""
    places = {name: place for place, name in enumerate(other.example.tolist())}
    own = [place for place, name in enumerate(outcomes.example.tolist()) if name in places]
    if not own:
        return None
    ours = outcomes.take(np.array(own, np.int64))
    found = other.take(np.array([places[name] for name in ours.example.tolist()], np.int64))
    return _compare(ours, np.stack([found.value, found.size], axis=1), seed=seed, confidence=confidence)


def _compare(ours: Outcomes, theirs: np.ndarray, *, seed: int, confidence: float) -> Difference:
    """Return the gain of a measure over paired (value, size) rows of another: a paired bootstrap over examples."""
    rows = np.concatenate([np.stack([ours.value, ours.size], axis=1), theirs], axis=1)
    count = len(rows)
    drawn = resampled_sums([Draw(rows, count)], _RESAMPLES, np.random.default_rng(seed))
    less = less_is_better(str(ours.measure[0]))
    with np.errstate(invalid="ignore", divide="ignore"):
        gains = drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3]
    value, size, their_value, their_size = rows.sum(axis=0)
    return describe_gain(
        np.nan_to_num(-gains if less else gains),
        value / size,
        their_value / their_size,
        less_is_better=less,
        pieces=count,
        blocks=count,
        resampled="examples",
        confidence=confidence,
    )


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
