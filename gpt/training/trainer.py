"""Pretraining: `pretrain` is the story, `Trainer.train_step` the mathematics.

A step is a pure function of the weights, the seed and the step's number: data order, learning rate and dropout all
follow from them. So a run that was killed and resumed ends with the same bytes as one that was not.
"""

import csv
import math
import signal
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from gpt import paths
from gpt.data.batches import Batches
from gpt.data.shards import TokenReader, data_id, read_index, verify_shards
from gpt.data.tokenizer import load_tokenizer, tokenizer_id
from gpt.errors import Interrupted, UserError
from gpt.files import atomic_file, write_json
from gpt.model.generation import generate_text
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params import Params
from gpt.training import checkpoint as checkpoints
from gpt.training.launch import check_launch, choose_precision, describe_hardware
from gpt.training.optimizer import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors
from gpt.training.signals import stop_signals
from gpt.training.tracking import Clock, Progress, Tracker

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
    accelerator = Accelerator(mixed_precision=choose_precision(params.launch), cpu=not torch.cuda.is_available())
    _check_processes(accelerator, params)
    _check_inputs()
    folder = paths.CHECKPOINTS / checkpoints.fingerprint(params, data_id(paths.TOKENS), tokenizer_id(paths.TOKENIZER))
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(checkpoints.single_trainer(folder))
            verify_shards(paths.TOKENS)
        accelerator.wait_for_everyone()
        trainer = Trainer(params, accelerator, measure)
        trainer.resume(checkpoints.load_latest(folder))
        if accelerator.is_main_process:
            tags = {
                "device": describe_hardware(),
                "num_processes": accelerator.num_processes,
                "fingerprint": folder.name,
            }
            tags |= {f"launch.{key}": value for key, value in params.section("launch").items()}
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
        if params.launch.compile:
            self.bare_model.compile()  # in place, so that the state dict keeps its names
        optimizer = build_optimizer(self.bare_model, params.train)
        self.model: nn.Module
        self.model, self.optimizer = accelerator.prepare(self.bare_model, optimizer)
        self.step = 0
        self.run: str | None = None
        self.tracker: Tracker | None = None
        self.history: dict[str, list[dict[str, float]]] = {"training": [], "validation": []}
        # Losses since the last line of the history, on the device: reading them would make the host wait for every step.
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self._loss_steps = 0
        per_process = params.train.batch_size // accelerator.num_processes
        first = accelerator.process_index * per_process
        size = params.launch.micro_batch_size
        self._micro_batches = [(start, start + size) for start in range(first, first + per_process, size)]

    def fit(self, folder: Path) -> None:
        """Train to `max_steps`; validate, sample, log and save on the way."""
        settings, tokens_per_step = self.settings, self.settings.batch_size * self.params.model.block_size
        progress = Progress(self.step, settings.max_steps) if self.accelerator.is_main_process else None
        clock = Clock(self.step)
        with stop_signals() as stop:
            while self.step < settings.max_steps:
                norm = self.train_step()
                due = _due(self.step, settings.max_steps)
                if due(settings.log_interval):
                    row = self._log_training(norm, clock.rate(self.step) * tokens_per_step)
                    if progress:
                        progress.update(self.step, row["train_loss"], clock.last_rate * tokens_per_step)
                with clock.paused():
                    if due(settings.eval_interval):
                        self._validate(progress)
                    if due(settings.sample_interval) and self.tracker:
                        self._sample(self.tracker)
                    signum = self._agree_on(stop[0] if stop else 0)
                    if signum or self.step % settings.checkpoint_interval == 0:
                        self._save(folder)
                    if signum:
                        name = signal.Signals(signum).name
                        raise Interrupted(
                            signum, f"stopped by {name} after step {self.step}; run it again to go on from there"
                        )
        if progress:
            progress.close()

    def train_step(self) -> torch.Tensor:
        """Take one optimizer step on global batch `self.step`; return the gradient's norm before clipping, on the device."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        self.model.train()
        for number, (first, last) in enumerate(self._micro_batches):
            inputs, targets = (part.to(self.accelerator.device) for part in self.batches.read(self.step, first, last))
            self._seed_dropout(first)
            is_last = number == len(self._micro_batches) - 1
            # Processes add their gradients up once a step, with the last micro-batch.
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                logits = self.model(inputs)  # (B, T, vocab_size)
                nats = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
                # The mean over the tokens of the global batch, whatever its split; DDP averages over processes.
                loss = nats / (settings.batch_size * targets.shape[1])
                self.accelerator.backward(loss * self.accelerator.num_processes)
            self._loss_sum += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss_steps += 1
        self.step += 1
        return norm

    def resume(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Go on from a checkpoint, if there is one."""
        if checkpoint is None:
            return
        self.bare_model.load_state_dict(checkpoint.weights)
        load_optimizer_tensors(self.bare_model, self._bare_optimizer, checkpoint.optimizer)
        state = checkpoint.state
        self.step, self.run, self.history = checkpoint.step, state["run"], state["history"]
        self._loss_steps = state["loss_steps"]
        if self.accelerator.is_main_process:
            self._loss_sum += state["loss_sum"]
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
        return getattr(self.optimizer, "optimizer", self.optimizer)

    @property
    def _autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else None

    def _seed_dropout(self, first_sequence: int) -> None:
        """Make dropout a function of seed, step and sequence, so that there is no random state to save."""
        if self.params.model.dropout:
            words = np.random.SeedSequence([self.params.base.seed, self.step, first_sequence]).generate_state(
                1, np.uint64
            )
            torch.manual_seed(int(words[0]))

    def _mean_loss(self) -> float:
        """Return the mean loss of the steps since the last call and begin anew. Waits for the device."""
        total = self._reduced_loss_sum()
        mean = total / self._loss_steps
        self._loss_sum.zero_()
        self._loss_steps = 0
        if not math.isfinite(mean):
            raise UserError(
                f"training diverged: the loss is {mean} at step {self.step}; lower train.learning_rate or"
                " train.grad_clip in params.yaml, or lengthen the warm-up (the last checkpoint is from before)"
            )
        return mean

    def _reduced_loss_sum(self) -> float:
        return float(self.accelerator.reduce(self._loss_sum.clone(), "sum"))  # pyright: ignore[reportArgumentType]

    def _log_training(self, norm: torch.Tensor, tokens_per_second: float) -> dict[str, float]:
        row = {
            "step": self.step,
            "train_loss": self._mean_loss(),
            "learning_rate": learning_rate(self.step - 1, self.settings),
            "gradient_norm": float(norm),
        }
        self.history["training"].append(row)
        if self.tracker:
            values = {key: value for key, value in row.items() if key != "step"}
            self.tracker.log_metrics("train", self.step, values | {"tokens_per_second": tokens_per_second})
        return row

    def _validate(self, progress: Progress | None) -> None:
        part = (self.accelerator.process_index, self.accelerator.num_processes)
        sums = self._measure(self.bare_model, self._validation, autocast=self._autocast, part=part)
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
        pieces = generate_text(
            self.bare_model,
            self._encoding,
            "",
            max_new_tokens=_SAMPLE_TOKENS,
            temperature=0.8,
            top_k=50,
            seed=self.step,
        )
        tracker.log_text(f"samples/step_{self.step:08d}.txt", "".join(pieces))

    def _agree_on(self, signum: int) -> int:
        """Return the signal that any process got: all stop after the same step."""
        if self.accelerator.num_processes == 1:
            return signum
        signals = torch.tensor([signum], device=self.accelerator.device)
        torch.distributed.all_reduce(signals, torch.distributed.ReduceOp.MAX)
        return int(signals)

    def _save(self, folder: Path) -> None:
        total = self._reduced_loss_sum()
        if not math.isfinite(total):
            self._mean_loss()  # says so and stops: nothing that is not finite is saved
        if not self.accelerator.is_main_process:
            return
        state = {"run": self.run, "history": self.history, "loss_sum": total, "loss_steps": self._loss_steps}
        weights = self.bare_model.state_dict()
        optimizer = optimizer_tensors(self.bare_model, self._bare_optimizer)
        checkpoints.save(folder, checkpoints.Checkpoint(self.step, weights, optimizer, state))


def _due(step: int, last: int) -> Callable[[int], bool]:
    return lambda interval: step % interval == 0 or step == last


def _check_processes(accelerator: Accelerator, params: Params) -> None:
    asked = params.launch.num_processes * params.launch.num_machines
    if accelerator.num_processes != asked:
        raise UserError(
            f"params.yaml: launch asks for {asked} processes, but {accelerator.num_processes} run; start `gpt pretrain`"
            " itself (it starts them), or make the launcher's numbers the same"
        )


def _check_inputs() -> None:
    """Raise `UserError` if the tokens were not made by the tokenizer that would be packed with the model."""
    if read_index(paths.TOKENS)["tokenizer_id"] != tokenizer_id(paths.TOKENIZER):
        raise UserError("data/tokens: made by another tokenizer than models/tokenizer; run `gpt tokenize` again")
