"""Pretraining: `pretrain` is the story, `TrainStep` the mathematics, `Trainer` everything that happens between steps.

A step is a pure function of the weights, the seed and the step's number: data order, learning rate and dropout all
follow from them. So a run that was killed and resumed ends with the same bytes as one that was not.
"""

import csv
import math
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from gpt import paths
from gpt.data.batches import Batches
from gpt.data.shards import TokenReader, data_id, read_index, verify_shards
from gpt.data.tokenizer import load_tokenizer, tokenizer_id
from gpt.errors import Interrupted, UserError
from gpt.files import atomic_file, write_json
from gpt.model.generation import Sampling, generate_text
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params import Params
from gpt.training import checkpoint as checkpoints
from gpt.training.compilation import choose_compile, eager_blocks
from gpt.training.launch import (
    check_launch,
    describe_hardware,
    keep_freed_memory,
    largest_of_processes,
    start_accelerator,
)
from gpt.training.meters import DTYPES, Meters, device_peak, flops_per_token
from gpt.training.optimizer import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors
from gpt.training.signals import stop_signals
from gpt.training.step import TrainStep
from gpt.training.tracking import Progress, Tracker

_SAMPLE_TOKENS = 100


class Measure(Protocol):
    """What `gpt.evaluation.likelihood.split_likelihood` does; passed in because evaluation builds on training."""

    def __call__(
        self, model: GPTModel, reader: TokenReader, *, autocast: torch.dtype | None, part: tuple[int, int]
    ) -> Any: ...


def pretrain(params: Params, measure: Measure) -> None:
    """Train the base model that params.yaml describes, going on from its last checkpoint, and write it to models/base.

    Raises `UserError` for inputs that are missing or do not fit, `Interrupted` after a signal, with the state saved.
    """
    check_launch(params.launch)
    accelerator, precision = start_accelerator(params.launch)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    _check_inputs()
    folder = paths.CHECKPOINTS / checkpoints.fingerprint(params, data_id(paths.TOKENS), tokenizer_id(paths.TOKENIZER))
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(checkpoints.single_trainer(folder))
            verify_shards(paths.TOKENS)
        accelerator.wait_for_everyone()
        trainer = Trainer(params, accelerator, measure)
        trainer.resume(checkpoints.load_latest(folder))
        steps_left = params.train.max_steps - trainer.step
        compiled = choose_compile(params.launch, trainer.take_step, trainer.step, steps_left, trainer.read_batch)
        choices = {"precision": precision, "compile": compiled}
        if accelerator.is_main_process:
            for name, choice in choices.items():
                if params.section("launch")[name] == "auto":
                    print(f"{name} auto: {choice}", flush=True)
            tags = {
                "device": describe_hardware(),
                "num_processes": accelerator.num_processes,
                "fingerprint": folder.name,
            }
            tags |= {f"launch.{key}": value for key, value in params.section("launch").items()}
            tags |= {name: str(choice) for name, choice in choices.items()}
            tags |= {"parameters": trainer.bare_model.count_parameters(), "resumed_at_step": trainer.step}
            trainer.tracker = stack.enter_context(Tracker(paths.SPOOL, params, trainer.run, tags))
            trainer.run = trainer.tracker.run
        trainer.fit(folder)
        if accelerator.is_main_process:
            trainer.write_outputs()
            checkpoints.remove(folder)


class Trainer:
    """Everything a run is at a step: model, optimizer, counters, and the history that becomes plots/."""

    def __init__(self, params: Params, accelerator: Accelerator, measure: Measure) -> None:
        self.params, self.settings, self.accelerator, self._measure = params, params.train, accelerator, measure
        self.batches = Batches(
            TokenReader(paths.TOKENS, "train"), params.model.block_size, params.train.batch_size, params.base.seed
        )
        self._validation = TokenReader(paths.TOKENS, "validation")
        self._encoding = load_tokenizer(paths.TOKENIZER)
        self.bare_model = GPTModel(GPTConfig(vocab_size=self._encoding.n_vocab, **params.section("model")))
        self.bare_model.init_weights(params.base.seed)
        self.bare_model.to(accelerator.device)
        self.bare_model.checkpoint_activations = params.launch.activation_checkpointing
        optimizer = build_optimizer(self.bare_model, params.train)
        size = params.launch.micro_batch_size
        self.take_step = TrainStep(
            self.bare_model, optimizer, params.train, accelerator, micro_batch_size=size, seed=params.base.seed
        )
        self._precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
        self._tokens_per_step = params.train.batch_size * params.model.block_size
        self.step = 0
        self.run: str | None = None
        self.tracker: Tracker | None = None
        self.history: dict[str, list[dict[str, float]]] = {"training": [], "validation": []}
        # Since the last line of the history, on the device: reading them would make the host wait for every step.
        self._nats = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self._norm = torch.zeros((), device=accelerator.device)
        self._loss_steps = 0

    def fit(self, folder: Path) -> None:
        """Train to `max_steps`; validate, sample, log and save on the way."""
        settings, accelerator = self.settings, self.accelerator
        progress = Progress(self.step, settings.max_steps) if accelerator.is_main_process else None
        meters = self._meters()
        with stop_signals() as stop:
            while self.step < settings.max_steps:
                self._train_step()
                due = _due(self.step, settings.max_steps)
                signum = stop[0] if stop else 0
                if accelerator.num_processes > 1:
                    # All stop after the same step. Asking makes them wait for each other, so they do it when they wait anyway.
                    signum = int(largest_of_processes(accelerator, signum)) if due(settings.log_interval) else 0
                if due(settings.log_interval):
                    self._log_training(meters, progress)
                is_evaluating, is_sampling = due(settings.eval_interval), due(settings.sample_interval)
                is_saving = signum or self.step % settings.checkpoint_interval == 0
                if not (is_evaluating or is_sampling or is_saving):
                    continue
                with meters.paused(), eager_blocks(self.bare_model):
                    if is_evaluating:
                        self._validate(progress)
                    if is_sampling and self.tracker:
                        self._sample(self.tracker)
                    if is_saving:
                        self._save(folder)
                if signum:
                    name = signal.Signals(signum).name
                    raise Interrupted(
                        signum, f"stopped by {name} after step {self.step}; run it again to go on from there"
                    )
        if progress:
            progress.close()

    def _train_step(self) -> None:
        nats, norm = self.take_step(self.step, self.read_batch)
        self._nats += nats
        # fp16's scaler skips a step whose gradient overflowed, and lowers its scale: that norm is no news.
        self._norm = norm if self.accelerator.scaler is None else torch.where(norm.isfinite(), norm, self._norm)
        self._loss_steps += 1
        self.step += 1

    def _meters(self) -> Meters:
        device = self.accelerator.device
        return Meters(
            self.step,
            tokens_per_step=self._tokens_per_step,
            flops_per_token=flops_per_token(self.bare_model),
            device=device,
            processes=self.accelerator.num_processes,
            peak=device_peak(device, self._precision) if self.accelerator.is_main_process else None,
        )

    def read_batch(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sequences [first, last) of the batch that comes next, as inputs and targets."""
        return self.batches.read(self.step, first, last)

    def resume(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Go on from a checkpoint, if there is one."""
        if checkpoint is None:
            return
        self.bare_model.load_state_dict(checkpoint.weights)
        load_optimizer_tensors(self.bare_model, self._bare_optimizer, checkpoint.optimizer)
        state = checkpoint.state
        self.step, self.run, self.history = checkpoint.step, state["run"], state["history"]
        self._loss_steps = state["loss_steps"]
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.accelerator.is_main_process:
            self._nats += state["nats"]
            print(f"resuming after step {self.step} of {self.settings.max_steps}", flush=True)

    def write_outputs(self) -> None:
        """Write models/base, plots/ and models/run.json."""
        save_model(self.bare_model, paths.TOKENIZER, paths.BASE_MODEL)
        for path, rows in ((paths.TRAINING_PLOT, "training"), (paths.VALIDATION_PLOT, "validation")):
            with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(self.history[rows][0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.history[rows])
        assert self.tracker is not None, "rank 0 tracks the run"
        for path in (paths.TRAINING_PLOT, paths.VALIDATION_PLOT):
            self.tracker.log_text(path.name, path.read_text(encoding="utf-8"))
        write_json(
            paths.RUN,
            {
                "run": self.run,
                "run_id": self.tracker.run_id(),
                "num_processes": self.accelerator.num_processes,
                "hardware": describe_hardware(),
                "data_sha256": data_id(paths.TOKENS),
            },
        )

    @property
    def _bare_optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.take_step.optimizer
        return getattr(optimizer, "optimizer", optimizer)

    def _reduced_nats(self) -> float:
        """Return the nats of all processes since the last line of the history; waits for the device."""
        nats = float(self.accelerator.reduce(self._nats.clone(), "sum"))  # pyright: ignore[reportArgumentType]
        norm = float(self._norm)
        if not math.isfinite(nats) or not math.isfinite(norm):
            loss = nats / (self._loss_steps * self._tokens_per_step)
            raise UserError(
                f"training diverged: the loss is {loss}, the gradient's norm {norm} at step {self.step}; lower"
                " train.learning_rate or train.grad_clip in params.yaml, or lengthen the warm-up (the last checkpoint is from"
                " before)"
            )
        return nats

    def _log_training(self, meters: Meters, progress: Progress | None) -> None:
        row = {
            "step": self.step,
            "train_loss": self._reduced_nats() / (self._loss_steps * self._tokens_per_step),
            "learning_rate": learning_rate(self.step - 1, self.settings),
            "gradient_norm": float(self._norm),
        }
        self._nats.zero_()
        self._loss_steps = 0
        self.history["training"].append(row)
        reading = meters.read(self.step)  # after the loss was read: the device has done all steps
        if self.tracker:
            values = {key: value for key, value in row.items() if key != "step"}
            self.tracker.log_metrics("train", self.step, values | reading.metrics())
        if progress:
            progress.update(self.step, row["train_loss"], reading)

    def _validate(self, progress: Progress | None) -> None:
        part = (self.accelerator.process_index, self.accelerator.num_processes)
        autocast = None if self._precision == "fp32" else DTYPES[self._precision]
        sums = self._measure(self.bare_model, self._validation, autocast=autocast, part=part)
        pair = torch.tensor([sums.nats, float(sums.tokens)], dtype=torch.float64, device=self.accelerator.device)
        nats, tokens = self.accelerator.reduce(pair, "sum").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        figures = {
            "validation_loss": nats / tokens,
            "validation_bits_per_byte": nats / math.log(2) / self._validation.text_bytes,
        }
        self.history["validation"].append({"step": self.step, **figures})
        if self.tracker:
            self.tracker.log_metrics("validation", self.step, figures)
        if progress:
            progress.say(
                f"step {self.step}: validation loss {figures['validation_loss']:.4f},"
                f" {figures['validation_bits_per_byte']:.4f} bits per byte"
            )

    def _sample(self, tracker: Tracker) -> None:
        """Log a text that the model writes from nothing; its own generator leaves training's random numbers alone."""
        sampling = Sampling(_SAMPLE_TOKENS, temperature=0.8, top_k=50, seed=self.step)
        pieces = generate_text(self.bare_model, self._encoding, "", sampling)
        tracker.log_text(f"samples/step_{self.step:08d}.txt", "".join(pieces))

    def _save(self, folder: Path) -> None:
        nats = self._reduced_nats()  # raises if it is not finite: nothing such is saved
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {"run": self.run, "history": self.history, "nats": nats, "loss_steps": self._loss_steps}
        state["scaler"] = None if scaler is None else scaler.state_dict()
        weights = self.bare_model.state_dict()
        optimizer = optimizer_tensors(self.bare_model, self._bare_optimizer)
        checkpoints.save(folder, checkpoints.Checkpoint(self.step, weights, optimizer, state))


def _due(step: int, last: int) -> Callable[[int], bool]:
    return lambda interval: step % interval == 0 or step == last


def _check_inputs() -> None:
    """Raise `UserError` if the tokens were not made by the tokenizer that would be packed with the model."""
    if read_index(paths.TOKENS)["tokenizer_id"] != tokenizer_id(paths.TOKENIZER):
        raise UserError("data/tokens: made by another tokenizer than models/tokenizer; run `gpt tokenize` again")
