"""Learning which of two answers is better, by DPO.

The base model's log-likelihoods of both are computed once, before the first step, by all processes together. They lie beside the
checkpoints, so that a run that goes on has the very numbers that it began with.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gpt import paths
from gpt.evaluation.likelihood import measuring
from gpt.files import atomic_file
from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.templates import Tokens
from gpt.finetuning.jobs.job import FineTuning
from gpt.finetuning.methods.models import PreferenceModel
from gpt.model.transformer import GPTModel
from gpt.processes.agreement import Share
from gpt.processes.signals import Stop
from gpt.training.job import Figures
from gpt.training.steps.step import Batch

_PAIRS_AT_A_TIME = 8
REFERENCE = "reference.safetensors"
"Beside the checkpoints of a run: the base model's log-likelihoods."

logger = logging.getLogger(__name__)


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
        share, splits = Share(accelerator), {"train": self._train, "validation": self._validation}
        path = paths.kept(paths.CHECKPOINTS) / self.fingerprint.id / REFERENCE
        # Rank 0 alone looks, and tells the others what it has found.
        known = next(iter(share.gather(_load_reference(path, splits) if share.is_first else None)), None)
        if known is None:
            model = self.new_model().to(accelerator.device)
            assert isinstance(model, PreferenceModel)
            known = {split: reference(model, data, share) for split, data in splits.items()}
            if share.is_first:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as partial:
                    save_file(known, partial)
        self._reference = {id(data): known[split] for split, data in splits.items()}

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


def reference(model: PreferenceModel, data: Encoded, share: Share) -> torch.Tensor:
    """Return the log-likelihood of every answer of a split under the model, (2 pairs,) on the CPU, to all who share the work."""
    rank, world = share.part
    found = torch.zeros(len(data))
    device = next(model.parameters()).device
    with measuring(model):
        for first in range(rank * _PAIRS_AT_A_TIME, len(data) // 2, world * _PAIRS_AT_A_TIME):
            numbers = range(first, min(first + _PAIRS_AT_A_TIME, len(data) // 2))
            tensors = {name: tensor.to(device) for name, tensor in pairs(data, numbers).items()}
            found[2 * first : 2 * numbers.stop] = model.log_likelihoods(**tensors).cpu()
    return torch.from_numpy(share.add_up(found.numpy()))


def _load_reference(path: Path, splits: dict[str, Encoded]) -> dict[str, torch.Tensor] | None:
    """Return what an earlier start of this run has computed, by split; None if there is nothing, or nothing whole."""
    try:
        known = load_file(path)
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        logger.warning("%s: damaged (%s); the base model's log-likelihoods are computed again", path, error)
        return None
    sizes = {split: (len(data),) for split, data in splits.items()}
    return known if {split: tuple(values.shape) for split, values in known.items()} == sizes else None
