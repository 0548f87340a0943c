"""How good a classifier is on its test texts, and how good counting words is on the same: a baseline, so that nobody is fooled.

The baseline is multinomial naive Bayes over words (McCallum and Nigam 1998), from scikit-learn, trained on the same texts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from gpt.finetuning.data.examples import Example

Json = dict[str, Any]


def baseline_predictions(train: Sequence[Example], test: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
    """Return the class that naive Bayes gives each test text: (texts,) int64."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    words = CountVectorizer(token_pattern=r"(?u)\b\w+\b")
    classifier = MultinomialNB().fit(
        words.fit_transform([example["text"] for example in train]),
        [labels.index(example["label"]) for example in train],
    )
    return classifier.predict(words.transform([example["text"] for example in test]))


def describe_predictions(predicted: np.ndarray, wanted: np.ndarray, labels: Sequence[str]) -> Json:
    """Return accuracy with its interval, the confusion matrix (rows: what it is), and precision and recall of each class."""
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (wanted, predicted), 1)
    right = np.diag(confusion)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = right / confusion.sum(0), right / confusion.sum(1)
    return {
        **share(int(right.sum()), len(wanted), "accuracy"),
        "confusion": confusion.tolist(),
        "classes": {
            label: {"precision": _known(precision[number]), "recall": _known(recall[number])}
            for number, label in enumerate(labels)
        },
    }


def share(count: int, of: int, name: str) -> Json:
    """Return a share with its 95 % interval (Wilson 1927), as `accuracy` and `accuracy_interval`."""
    if not of:
        return {name: None, f"{name}_interval": None}
    interval = binomtest(count, of).proportion_ci(method="wilson")
    return {name: count / of, f"{name}_interval": [float(interval.low), float(interval.high)]}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
