"""What a run is at a step, besides its weights and its optimizer's state: everything that a checkpoint keeps as JSON.

A new counter is one new field here: `to_json` and `load_json` take every field, and a test fails for one that does not come back.
"""

import copy
import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from gpt.files import atomic_file
from gpt.training.steps.guard import Guard

Rows = list[dict[str, float]]
TRAINING_COLUMNS: tuple[str, ...] = ("step", "train_loss", "learning_rate", "gradient_norm")
VALIDATION_COLUMNS: tuple[str, ...] = ("step", "validation_loss", "validation_bits_per_byte")
"Of the rows, as plots/ has them."


@dataclass
class RunState:
    """The counters, rows and small tensors of a run. Each field is a JSON value, a tensor, or has a `state_dict` of its own.

    Tensors stay on the device: to read one, the host would wait for the step that computes it.
    """

    guard: Guard
    "Steps taken and skipped so far, and the losses and norms that the next ones are judged by."
    scaler: torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
    "Keeps fp16's gradients in range; disabled, and its state empty, for other precisions."
    loss_sum: torch.Tensor
    "Sum of the losses of the steps taken since the last training row, float64 scalar."
    gradient_norm: torch.Tensor
    "Of the last step taken, before clipping, scalar."

    step: int = 0
    "Optimizer steps done, the skipped ones included."
    run: str | None = None
    "Name of the MLflow run, once there is one."
    compile: str | None = None
    "eager or compiled: how this run's steps are computed, once that is chosen."
    training_rows: Rows = field(default_factory=list)
    "plots/training.csv."
    validation_rows: Rows = field(default_factory=list)
    "plots/validation.csv."
    logged_taken: int = 0
    "Steps taken until the last training row."
    logged_skipped: int = 0
    "Steps skipped until the last training row."
    last_sample: int = 0
    "Step after which the model last wrote a text."
    last_benchmark: int = 0
    "Step after which benchmarks were last scored."
    last_save: int = 0
    last_scheduled_save: int = 0
    "Step of the last save that `checkpoint_interval` asked for; a signal's depends on when it came."
    last_stable: int = 0
    "Step of the state before the decay that was kept, or that this run began with."
    parent: dict[str, Any] | None = None
    "Of a run that began with another's state before the decay: its fingerprint, step, and run."
    rollbacks: int = 0
    "How often training went back after skipped steps."
    skipped_batches: int = 0
    "Batches of data that training went past when it went back: step s reads global batch s + skipped_batches."

    @property
    def last_validation(self) -> int:
        """The step of the last validation, 0 if there was none."""
        return int(self.validation_rows[-1]["step"]) if self.validation_rows else 0

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values, copies; waits for the device."""
        return {one.name: _to_json(getattr(self, one.name)) for one in fields(self)}

    def load_json(self, values: dict[str, Any]) -> None:
        """Put back what `to_json` returned; raise `ValueError` if that had other fields."""
        names = {one.name for one in fields(self)}
        if names != values.keys():
            raise ValueError(f"not the fields of a run's state: {', '.join(sorted(names ^ values.keys()))}")
        for name, value in values.items():
            setattr(self, name, _from_json(getattr(self, name), value))


def write_rows(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    """Write rows as a table (CSV), whole or not at all."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _to_json(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return copy.deepcopy(value.state_dict() if hasattr(value, "state_dict") else value)


def _from_json(current: Any, value: Any) -> Any:
    """Return what a field becomes that is `current`: an object with a `state_dict` stays and loads it."""
    if isinstance(current, torch.Tensor):
        return torch.tensor(value, dtype=current.dtype, device=current.device)
    if hasattr(current, "state_dict"):
        if value:  # a disabled scaler's is empty, and an enabled one refuses that
            current.load_state_dict(value)
        return current
    return copy.deepcopy(value)
