"""Learning which of two answers is better, by DPO. The base model's log-likelihoods of both are computed before the first step."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from gpt.evaluation.likelihood import measuring
from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.templates import Tokens
from gpt.finetuning.jobs.job import FineTuning
from gpt.finetuning.methods.models import PreferenceModel
from gpt.model.transformer import GPTModel
from gpt.processes.signals import Stop
from gpt.training.job import Figures
from gpt.training.steps.step import Batch

_PAIRS_AT_A_TIME = 8


class Preferring(FineTuning):
    figure = "preferred"
    summed = ("loss", "preferred", "pairs")
    unit = "pairs"

    @property
    def examples(self) -> int:
        return len(self._train) // 2

    @property
    def validation_examples(self) -> int:
        return len(self._validation) // 2

    def open(self, accelerator: Accelerator, stop: Stop) -> None:
        super().open(accelerator, stop)
        model = self.new_model().to(accelerator.device)
        assert isinstance(model, PreferenceModel)
        self._reference = {
            id(data): reference(model, data, accelerator.device) for data in (self._train, self._validation)
        }

    def sequences(self, number: int) -> list[tuple[str, Tokens]]:
        return [(", chosen", self._train[2 * number]), (", rejected", self._train[2 * number + 1])]

    def batch(self, numbers: Sequence[int], data: Encoded, count: int) -> Batch:
        tensors = pairs(data, numbers)
        rows = [row for number in numbers for row in (2 * number, 2 * number + 1)]
        return Batch(tensors | {"reference": self._reference[id(data)][rows]}, count)

    def measure(self, model: GPTModel, batch: Batch, device: torch.device) -> Sequence[float]:
        assert isinstance(model, PreferenceModel)
        tensors = {name: tensor.to(device) for name, tensor in batch.tensors.items()}
        before = tensors.pop("reference")
        margins = model.margins(model.log_likelihoods(**tensors) - before)
        loss = -torch.nn.functional.logsigmoid(model.beta * margins).sum()
        return [float(loss), float((margins > 0).sum()), len(margins)]

    def summary(self, sums: Sequence[float]) -> Figures:
        loss, preferred, count = sums
        return {"validation_loss": loss / count, "validation_preferred": preferred / count}


def pairs(data: Encoded, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return pairs as `PreferenceModel.log_likelihoods` takes them: chosen answers in the even rows, rejected ones in the odd."""
    sequences = [data[row] for number in numbers for row in (2 * number, 2 * number + 1)]
    longest = max(map(len, sequences)) - 1
    tokens, targets = (np.full((len(sequences), longest), fill, np.int64) for fill in (0, -1))
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence) - 1] = sequence.ids[:-1]
        targets[row, : len(sequence) - 1] = np.where(sequence.mask[1:], sequence.ids[1:], -1)
    rows, _ = np.nonzero(targets >= 0)
    (wanted,) = np.nonzero(targets.ravel() >= 0)
    arrays = {"tokens": tokens, "wanted": wanted, "targets": targets.ravel()[wanted], "rows": rows}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def reference(model: PreferenceModel, data: Encoded, device: torch.device) -> torch.Tensor:
    """Return the log-likelihood of every answer of a split under the model: (2 pairs,), on the CPU."""
    found = []
    with measuring(model):
        for first in range(0, len(data) // 2, _PAIRS_AT_A_TIME):
            numbers = range(first, min(first + _PAIRS_AT_A_TIME, len(data) // 2))
            tensors = {name: tensor.to(device) for name, tensor in pairs(data, numbers).items()}
            found.append(model.log_likelihoods(**tensors).cpu())
    return torch.cat(found)
