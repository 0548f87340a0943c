"""Learning to answer: conversations, packed, with a loss on what the recipe says."""

import math
from collections.abc import Sequence
from functools import cached_property

import torch

from gpt.files import read_json
from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.packing import PackedRows
from gpt.finetuning.data.prepare import read_lines
from gpt.finetuning.data.templates import Tokens, load_template
from gpt.finetuning.jobs.job import FineTuning
from gpt.finetuning.judging.answers import answer
from gpt.finetuning.methods.lora import merged_model
from gpt.model.transformer import GPTModel
from gpt.tokens.tokenizer import token_bytes
from gpt.training.job import Figures
from gpt.training.steps.step import Batch

_SAMPLES = 4


class Instructing(FineTuning):
    figure = "bits_per_byte"
    summed = ("nats", "targets", "bytes")
    unit = "packed rows"

    @cached_property
    def _room(self) -> int:
        known = read_json(self.places.base / "config.json", "run `gpt finetune data` again", ["block_size"])
        return self.recipe.block_size or known["block_size"]

    @cached_property
    def _rows(self) -> PackedRows:
        return PackedRows(self._train, self._room)

    @cached_property
    def _validation_rows(self) -> PackedRows:
        return PackedRows(self._validation, self._room)

    @property
    def examples(self) -> int:
        return len(self._rows)

    @property
    def validation_examples(self) -> int:
        return len(self._validation_rows)

    def count(self, numbers: Sequence[int]) -> int:
        return int(self._rows.targets[list(numbers)].sum())

    def sequences(self, number: int) -> list[tuple[str, Tokens]]:
        found = self._rows.sequences(number)
        return [(f", {place} of {len(found)} in its row", tokens) for place, tokens in enumerate(found, start=1)]

    def batch(self, numbers: Sequence[int], data: Encoded, count: int) -> Batch:
        rows = self._rows if data is self._train else self._validation_rows
        return Batch(rows.tensors(numbers), count)

    def measure(self, model: GPTModel, batch: Batch, device: torch.device) -> Sequence[float]:
        tensors = {name: tensor.to(device) for name, tensor in batch.tensors.items()}
        _, nats = model(**tensors)
        targets = batch.tensors["targets"].numpy()
        return [float(nats), len(targets), int(token_bytes(self.encoding)[targets].sum())]

    def summary(self, sums: Sequence[float]) -> Figures:
        nats, targets, text_bytes = sums
        return {
            "validation_loss": nats / targets,
            "validation_bits_per_byte": nats / math.log(2) / max(1.0, text_bytes),
        }

    def write_samples(self, model: GPTModel, *, seed: int, is_writer: bool) -> Sequence[tuple[str, str]]:
        """Return the first validation prompts and the model's likeliest answers."""
        template = load_template(self.places.data / "tokenizer", self.encoding)
        if not is_writer or template is None:
            return []
        examples = read_lines(self.places.data / "validation.jsonl")[:_SAMPLES]
        asked = [example["messages"][:-1] for example in examples]
        answers = answer(merged_model(model), template, asked, self.recipe.judge.max_new_tokens)
        return [
            (f"{messages[-1]['content']}\n→ ", said.text)
            for messages, said in zip(asked, answers, strict=True)
            if messages
        ]
