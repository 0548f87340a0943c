"""What a run trains on which data, and how it is looked at meanwhile: `Job`.

Pretraining is one (gpt/training/pretrain.py), each kind of fine-tuning another. Everything else of a run is the same for all: the
step and its guard, checkpoints, processes, what MLflow and the terminal are told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import Params
from gpt.processes.signals import Stop
from gpt.training.checkpoints.fingerprint import Fingerprint
from gpt.training.state import RunState
from gpt.training.steps.step import Batch

Figures = dict[str, float]
GiveUp = Callable[[], bool]


@dataclass(frozen=True)
class About:
    """What MLflow is told of a run when it begins."""

    dataset: dict[str, Any]
    "What `describe_dataset` says of its data."
    card: str | None
    "The data card (HTML), if there is one."
    note: list[str]
    "Parts of its description, in Markdown."
    settings: dict[str, Any]
    "What decides the result, as `section.key`."
    tags: dict[str, str]


class Job(Protocol):
    """A run's settings, its data and what becomes of its weights. All processes call its methods together, but `save`."""

    command: str
    "As in `gpt pretrain`."
    figure: str
    "What validation measures besides the loss, as in bits_per_byte."
    has_benchmarks: bool
    begins_trained: bool
    "Whether its first weights can do something already: its curves begin with what."

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Peaks of modules that do not learn at `train.learning_rate`, by their names."""
        ...

    @property
    def params(self) -> Params:
        """The settings: `base`, `train` and `launch` are the run's own."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a global batch, for its speed."""
        ...

    def identity(self) -> Fingerprint:
        """Return what the result depends on; raise `UserError` if inputs are missing or do not fit."""
        ...

    def open(self, accelerator: Accelerator, stop: Stop) -> None:
        """Verify and open the data, and tell how often they will be seen. Raises `UserError`, or `Interrupted` after a signal."""
        ...

    def new_model(self) -> GPTModel:
        """Return the model that the run begins with, on the CPU."""
        ...

    def initial_optimizer(self, config: GPTConfig) -> dict[str, torch.Tensor]:
        """Return the optimizer's first state, as `optimizer_tensors` names it; mostly none."""
        ...

    def check_unchanged(self) -> None:
        """Raise `UserError` if the first weights are not any more those that the run began with."""
        ...

    def read(self, step: int, first: int, last: int) -> Batch:
        """Return sequences [first, last) of global batch `step` (from 0)."""
        ...

    def describe_excess(self, batches: int) -> str:
        """Return in words what so many batches would see more often than settings allow; "" if nothing."""
        ...

    def validate(
        self, model: GPTModel, accelerator: Accelerator, autocast: torch.dtype | None, give_up: GiveUp
    ) -> Figures | None:
        """Return `validation_loss` and `validation_<figure>`, or None if `give_up` said so; all call that together."""
        ...

    def write_samples(self, model: GPTModel, *, seed: int, is_writer: bool) -> Sequence[tuple[str, str]]:
        """Return prompts and what the model adds to each; none unless `is_writer`."""
        ...

    def score_benchmarks(
        self, model: GPTModel, accelerator: Accelerator, autocast: torch.dtype | None, give_up: GiveUp
    ) -> Figures | None:
        """Return what a small part of the benchmarks scores, or None if `give_up` said so."""
        ...

    def describe(self) -> About:
        """Return what MLflow is told when the run begins."""
        ...

    def save(self, model: GPTModel, state: RunState, about: dict[str, Any]) -> dict[str, str]:
        """Write what the run is made for; `about` says which run it was. Return further texts for MLflow by their names."""
        ...
