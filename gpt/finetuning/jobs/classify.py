"""Learning which class a text is of: a head on its last token (Raschka, chapter 6)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.templates import Tokens
from gpt.finetuning.jobs.job import FineTuning
from gpt.finetuning.methods.classes import pad
from gpt.finetuning.methods.models import Classifier
from gpt.model.transformer import GPTModel
from gpt.params.finetuning import Classify
from gpt.training.job import Figures
from gpt.training.steps.step import Batch


class Classifying(FineTuning):
    figure = "accuracy"
    summed = ("loss", "right", "examples")
    unit = "texts"

    @property
    def examples(self) -> int:
        return len(self._train)

    @property
    def validation_examples(self) -> int:
        return len(self._validation)

    @property
    def learning_rates(self) -> dict[str, float]:
        assert isinstance(self.recipe.task, Classify)
        return {"label_head": self.recipe.task.head_learning_rate}

    def sequences(self, number: int) -> list[tuple[str, Tokens]]:
        return [(f", of class {self.report['labels'][self._train.labels[number]]}", self._train[number])]

    def batch(self, numbers: Sequence[int], data: Encoded, count: int) -> Batch:
        texts = pad([data[number].ids for number in numbers])
        return Batch({**texts, "labels": torch.from_numpy(data.labels[list(numbers)])}, count)

    def validation_parts(self) -> Iterator[Sequence[int]]:
        """Texts of about one length together: least padding."""
        order = np.argsort(self._validation.lengths, kind="stable").tolist()
        parts = list(super().validation_parts())
        return ([order[number] for number in part] for part in parts)

    def measure(self, model: GPTModel, batch: Batch, device: torch.device) -> Sequence[float]:
        assert isinstance(model, Classifier)
        tensors = {name: tensor.to(device) for name, tensor in batch.tensors.items()}
        logits, labels = model.class_logits(tensors["tokens"], tensors["lasts"]), tensors["labels"]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return [float(loss), float((logits.argmax(1) == labels).sum()), len(labels)]

    def summary(self, sums: Sequence[float]) -> Figures:
        loss, right, examples = sums
        return {"validation_loss": loss / examples, "validation_accuracy": right / examples}
