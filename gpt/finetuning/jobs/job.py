"""What all kinds of fine-tuning have in common, as a `Job` of the trainer: settings, identity, and what is written at the end."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from gpt.code import stage_identity
from gpt.errors import UserError
from gpt.evaluation.likelihood import measuring
from gpt.files import read_json, sha256_file, sha256_json, write_json
from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.packing import shuffled
from gpt.finetuning.data.templates import Tokens
from gpt.finetuning.methods.models import build_model
from gpt.finetuning.methods.saving import save_fine
from gpt.finetuning.places import Places
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.finetuning import Recipe, registered_name
from gpt.params.project import Params
from gpt.params.training import Train
from gpt.params.types import flatten
from gpt.processes.agreement import add_up_over_processes
from gpt.processes.signals import Stop
from gpt.tokens.tokenizer import load_tokenizer, tokenizer_id
from gpt.training.checkpoints.fingerprint import BY_CONTENT, WITHOUT_EFFECT, Fingerprint
from gpt.training.job import About, Figures, GiveUp
from gpt.training.state import TRAINING_COLUMNS, RunState, write_rows
from gpt.training.steps.step import Batch

_HINT = "run `gpt finetune data` again"
_VALIDATED_AT_A_TIME = 16


class FineTuning:
    """A base model and labelled examples: see `Job`, whose methods these are. A subclass says how examples become batches."""

    command = "gpt finetune"
    has_benchmarks = False
    begins_trained = True
    figure: str
    summed: Sequence[str]
    "What `measure` returns, by name."
    unit: str
    "What an epoch is counted in."

    def __init__(self, recipe: Recipe, places: Places, params: Params) -> None:
        self.recipe, self.places = recipe, places
        if params.launch.strategy == "fsdp":
            raise UserError("params.yaml: launch.strategy = 'fsdp': fine-tuning runs with ddp; set it to ddp")
        self.report = read_json(places.data / "report.json", _HINT, ("labels", "splits", "sources"))
        self.encoding = load_tokenizer(places.data / "tokenizer")
        self._train, self._validation = (
            Encoded.load(places.data / f"{split}.safetensors") for split in ("train", "validation")
        )
        self.params = self._settings(params)
        self.tokens_per_step = max(1, round(len(self._train.ids) / self.examples * recipe.train.batch_size))

    @property
    def learning_rates(self) -> dict[str, float]:
        return {}

    @property
    def examples(self) -> int:
        """How many an epoch has: texts, packed rows or pairs."""
        raise NotImplementedError

    def sequences(self, number: int) -> list[tuple[str, Tokens]]:
        """Return the sequences of a training example, each with what is said of it, for a person to look at."""
        raise NotImplementedError

    def batch(self, numbers: Sequence[int], data: Encoded, count: int) -> Batch:
        """Return those examples of a split as a part of a batch whose loss is the mean over `count`."""
        raise NotImplementedError

    def count(self, numbers: Sequence[int]) -> int:
        """Return over what the loss of those training examples is the mean: their targets, or they themselves."""
        return len(numbers)

    def summary(self, sums: Sequence[float]) -> Figures:
        """Return the figures of validation from what `measure` summed over all examples."""
        raise NotImplementedError

    def measure(self, model: GPTModel, batch: Batch, device: torch.device) -> Sequence[float]:
        """Return what is summed over validation examples, for those of a batch."""
        raise NotImplementedError

    def validation_parts(self) -> Iterator[Sequence[int]]:
        """Yield the validation examples some at a time."""
        numbers = range(self.validation_examples)
        for first in range(0, len(numbers), _VALIDATED_AT_A_TIME):
            yield numbers[first : first + _VALIDATED_AT_A_TIME]

    @property
    def validation_examples(self) -> int:
        raise NotImplementedError

    def _settings(self, project: Params) -> Params:
        """Return the project's settings with the recipe's in place of those that decide what is trained."""
        train = self.recipe.train
        steps = max(1, math.ceil(train.epochs * self.examples / train.batch_size))
        launch = project.launch
        together = launch.num_processes * launch.num_machines
        if train.batch_size % together:
            raise UserError(
                f"{self.places.recipe}: train.batch_size = {train.batch_size}: does not divide by the {together} processes of"
                " launch in params.yaml; change one of them"
            )
        settings = Train(
            **train.model_dump(exclude={"epochs", "dropout", "evaluations"}),
            init_from=self.recipe.base,
            init_optimizer=False,
            warmup_steps=0,
            max_steps=steps,
            mixture=(),
            max_epochs=0.0,
            attention_across_documents=False,
            eval_interval=max(1, math.ceil(steps / train.evaluations)),
            checkpoint_keep_every=0,
            checkpoint_keep_stable=0,
            sample_interval=0,
            benchmark_interval=0,
        )
        own = train.batch_size // together
        micro = max(size for size in range(1, min(own, launch.micro_batch_size) + 1) if own % size == 0)
        name = registered_name(project.register_.name, self.places.name)
        return project.model_copy(
            update={
                "base": project.base.model_copy(update={"name": name, "seed": self.recipe.seed}),
                "train": settings,
                "launch": launch.model_copy(update={"micro_batch_size": micro}),
            }
        )

    def identity(self) -> Fingerprint:
        self._source = read_json(self.places.base / "source.json", _HINT, ("weights_sha256",))
        weights = sha256_file(self.places.base / "model.safetensors")
        if weights != self._source["weights_sha256"]:
            raise UserError(
                f"{self.places.base / 'model.safetensors'}: damaged (its SHA-256 is not the one in source.json); {_HINT}"
            )
        settings = {
            f"train.{key}": value
            for key, value in self.params.section("train").items()
            if key not in WITHOUT_EFFECT + BY_CONTENT
        }
        settings |= flatten(self.recipe.model_dump(mode="json", include={"task", "method", "block_size"}), "finetuning")
        inputs = {
            "base": sha256_json([weights, sha256_file(self.places.base / "config.json")]),
            "tokenizer": tokenizer_id(self.places.data / "tokenizer"),
            **{split: sha256_file(self.places.data / f"{split}.safetensors") for split in ("train", "validation")},
        }
        settings |= {"base.seed": self.recipe.seed, "finetuning.dropout": self.recipe.train.dropout}
        parts = {"settings": settings, "inputs": inputs, **stage_identity("finetune")}
        self.fingerprint = Fingerprint(self.params.base.name, parts)
        return self.fingerprint

    def open(self, accelerator: Accelerator, stop: Stop) -> None:
        train = self.params.train
        if accelerator.is_main_process:
            print(
                f"{self.examples:,} training examples, {train.max_steps:,} steps of {train.batch_size}:"
                f" {train.max_steps * train.batch_size / self.examples:.2f} epochs",
                flush=True,
            )

    def new_model(self) -> GPTModel:
        return build_model(self.recipe, self.places.base, self.encoding.n_vocab, len(self.report["labels"]))

    def initial_optimizer(self, config: GPTConfig) -> dict[str, torch.Tensor]:
        return {}

    def check_unchanged(self) -> None:
        if sha256_file(self.places.base / "model.safetensors") != self._source["weights_sha256"]:
            raise UserError(f"{self.places.base}: holds other weights than those that this run began with; {_HINT}")

    def read(self, step: int, first: int, last: int) -> Batch:
        numbers = shuffled(step, self.recipe.train.batch_size, self.examples, self.recipe.seed).tolist()
        return self.batch(numbers[first:last], self._train, self.count(numbers))

    def describe_excess(self, batches: int) -> str:
        return ""

    def validate(
        self, model: GPTModel, accelerator: Accelerator, autocast: torch.dtype | None, give_up: GiveUp
    ) -> Figures | None:
        """Measure all validation examples, each process its part of them."""
        parts, world = list(self.validation_parts()), accelerator.num_processes
        device = accelerator.device
        sums: torch.Tensor | None = None
        with measuring(model), torch.autocast(device.type, autocast or torch.float32, enabled=autocast is not None):
            for first in range(0, len(parts), world):
                if give_up():
                    return None
                number = first + accelerator.process_index
                if number < len(parts):
                    batch = self.batch(parts[number], self._validation, 1)
                    found = torch.tensor(self.measure(model, batch, device), dtype=torch.float64, device=device)
                    sums = found if sums is None else sums + found
        if sums is None:  # more processes than parts
            sums = torch.zeros(len(self.summed), dtype=torch.float64, device=device)
        add_up_over_processes(accelerator, sums)
        return None if give_up() else self.summary(sums.tolist())

    def write_samples(self, model: GPTModel, *, seed: int, is_writer: bool) -> Sequence[tuple[str, str]]:
        return []

    def score_benchmarks(
        self, model: GPTModel, accelerator: Accelerator, autocast: torch.dtype | None, give_up: GiveUp
    ) -> Figures | None:
        raise AssertionError("there are none")

    def describe(self) -> About:
        recipe, splits, sources = self.recipe, self.report["splits"], self.report["sources"]
        digest = examples_hash(self.report)
        return About(
            dataset={
                "name": self.params.base.name,
                "digest": digest[:36],
                "source": json.dumps({"sources": sources}),
                "profile": json.dumps({"splits": splits, "left_out": self.report["left_out"]}),
                "tags": {"data_sha256": digest},
            },
            card=None,
            note=[
                f"Fine-tuned from {recipe.base} by {recipe.method.kind} on {', '.join(source['name'] for source in sources)}:"
                f" {splits['train']['examples']:,} examples, {self.params.train.max_steps:,} steps of"
                f" {recipe.train.batch_size}."
            ],
            settings=flatten(recipe.model_dump(mode="json", exclude={"data": {"sources"}}), "finetuning"),
            tags={f"base.{key}": str(value) for key, value in self._source.items() if value is not None},
        )

    def save(self, model: GPTModel, state: RunState, about: dict[str, Any]) -> dict[str, str]:
        places = self.places
        save_fine(model, self.recipe, self.report["labels"], places.data / "tokenizer", places.model)
        write_rows(places.training_plot, state.training_rows, TRAINING_COLUMNS)
        columns = ("step", "validation_loss", *(f"validation_{name}" for name in (self.figure,)))
        write_rows(places.validation_plot, state.validation_rows, columns)
        made_of = {"data_sha256": examples_hash(self.report), "settings_sha256": trained_settings_hash(self.recipe)}
        write_json(places.run, about | {"base": self._source} | made_of)
        return {path.name: path.read_text(encoding="utf-8") for path in (places.training_plot, places.validation_plot)}


def examples_hash(report: dict[str, Any]) -> str:
    """Return a hash of the examples of all splits; `report` is that of `gpt finetune data`."""
    return sha256_json({split: about["sha256"] for split, about in report["splits"].items()})


def trained_settings_hash(recipe: Recipe) -> str:
    """Return a hash of the settings that training reads, besides what the base model and the examples are."""
    return sha256_json(recipe.model_dump(mode="json", include={"seed", "block_size", "task", "method", "train"}))
