"""How good a classifier is on its test texts, and how good counting words is on the same: a baseline, so that nobody is fooled.

The baseline is multinomial naive Bayes over words (McCallum and Nigam 1998), from scikit-learn, trained on the same texts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.examples import Example
from gpt.finetuning.jobs.classify import pad
from gpt.finetuning.methods.models import Classifier

_AT_A_TIME = 32
Json = dict[str, Any]


@torch.inference_mode()
def class_probabilities(model: Classifier, data: Encoded) -> np.ndarray:
    """Return the probability of each class for every text of a split: (texts, classes) fp32."""
    device = model.label_head.weight.device
    order = np.argsort(data.lengths, kind="stable")
    found = np.empty((len(data), model.label_head.out_features), np.float32)
    for first in range(0, len(order), _AT_A_TIME):
        numbers = order[first : first + _AT_A_TIME]
        texts = {name: tensor.to(device) for name, tensor in pad([data[number].ids for number in numbers]).items()}
        found[numbers] = model.class_logits(texts["tokens"], texts["lasts"]).softmax(1).cpu().numpy()
    return found


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
