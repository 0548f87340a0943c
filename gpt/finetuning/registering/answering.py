"""What a served fine-tuned model says: a classifier labels with their probabilities, one that has learned to answer its answers.

Requests are those of a pretrained model: a column `prompt`. It is the text to classify, or what the user says.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gpt.finetuning.data.templates import ChatTemplate
from gpt.finetuning.methods.classes import class_probabilities
from gpt.finetuning.methods.saving import HEAD, load_answering, load_classifier
from gpt.model.generation import continue_tokens
from gpt.model.sampling import Sampling
from gpt.model.storage import default_device
from gpt.model.transformer import GPTModel
from gpt.registry.serving.arrival import check_awaited
from gpt.registry.serving.completion import CompletionModel, completions

_AT_A_TIME = 32


class FineTunedModel(CompletionModel):
    """Answers each row's `prompt` as its recipe has taught it; a row's answer is the same whatever the other rows."""

    def load(self, folder: Path) -> None:
        self._is_classifier = (folder / HEAD).is_file()
        self.takes_parameters = not self._is_classifier
        if self._is_classifier:
            self._classifier, self._encoding, self._labels = load_classifier(folder, default_device())
        else:
            self._model, self._template = load_answering(folder, default_device())

    def read_parameters(self, params: dict[str, Any]) -> Sampling:
        if not self._is_classifier:
            return super().read_parameters(params)
        if params:
            raise ValueError(f"there is no parameter {ascii(next(iter(params)))[:60]}: a classifier takes none")
        return Sampling(1)

    def answer(self, prompts: Sequence[str], sampling: Sampling) -> pd.DataFrame:
        if self._is_classifier:
            return self._classify(prompts)
        parts = range(0, len(prompts), _AT_A_TIME)
        said = (answer_each(self._model, self._template, prompts[part : part + _AT_A_TIME], sampling) for part in parts)
        return completions([text for each in said for text in each])

    def _classify(self, texts: Sequence[str]) -> pd.DataFrame:
        """Return for each text its likeliest label, that one's probability, and those of all labels."""
        room = self._classifier.config.block_size
        ids = [
            np.array([self._encoding.eot_token, *self._encoding.encode_ordinary(text)][:room], np.int64)
            for text in texts
        ]
        found = np.concatenate([np.empty((0, len(self._labels))), *self._probabilities(ids)])
        return pd.DataFrame(
            {
                "label": pd.Series([self._labels[number] for number in found.argmax(1)], dtype="str"),
                "probability": found.max(1, initial=0.0),
                "probabilities": [dict(zip(self._labels, row.tolist(), strict=True)) for row in found],
            }
        )

    def _probabilities(self, ids: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for first in range(0, len(ids), _AT_A_TIME):
            check_awaited()
            yield class_probabilities(self._classifier, ids[first : first + _AT_A_TIME])


def answer_each(model: GPTModel, template: ChatTemplate, prompts: Sequence[str], sampling: Sampling) -> list[str]:
    """Return the model's answers to prompts, each what a user says in a talk of its own."""
    starts = [template.encode_prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    pieces = continue_tokens(
        model,
        template.encoding,
        starts,
        sampling,
        seeds=[sampling.seed] * len(prompts),
        ends=template.ends,
        at_each_step=check_awaited,
    )
    texts = [""] * len(prompts)
    for row, piece in pieces:
        texts[row] += piece
    return texts
