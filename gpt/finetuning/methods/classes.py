"""Classes of texts, as a classifier gives them: texts in rows, and the probability of each class."""

from collections.abc import Sequence

import numpy as np
import torch

from gpt.finetuning.methods.models import Classifier

_AT_A_TIME = 32


def pad(sequences: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """Return sequences in rows as long as the longest, and the place of each one's last token: `tokens` (B, T), `lasts` (B,).

    What fills a row stands behind its last token, where a causal model cannot see it.
    """
    tokens = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row, ids in enumerate(sequences):
        tokens[row, : len(ids)] = ids
    lasts = np.array([len(ids) - 1 for ids in sequences], np.int64)
    return {"tokens": torch.from_numpy(tokens), "lasts": torch.from_numpy(lasts)}


@torch.inference_mode()
def class_probabilities(model: Classifier, sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probability of each class for every text, given as ids: (texts, classes) fp32."""
    device = model.label_head.weight.device
    order = np.argsort([len(ids) for ids in sequences], kind="stable")
    found = np.empty((len(sequences), model.label_head.out_features), np.float32)
    for first in range(0, len(order), _AT_A_TIME):
        numbers = order[first : first + _AT_A_TIME]
        texts = {name: tensor.to(device) for name, tensor in pad([sequences[number] for number in numbers]).items()}
        found[numbers] = model.class_logits(texts["tokens"], texts["lasts"]).softmax(1).cpu().numpy()
    return found
