"""Pretraining: `pretrain` is the story, `TrainStep` the mathematics, `Trainer` everything that happens between steps.

A step is a pure function of the weights, the seed and the step's number: data order, learning rate and dropout all
follow from them. So a run that was killed and resumed ends with the same bytes as one that was not.
"""

import copy
import csv
import logging
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
from gpt.training.meters import DTYPES, Meters, Reading, device_peak, flops_per_token
from gpt.training.optimizer import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors
from gpt.training.saver import Saver
from gpt.training.sharding import gather, is_sharded, shard, share_of
from gpt.training.signals import Stop
from gpt.training.step import TrainStep
from gpt.training.tracking import Progress, Tracker

_SAMPLE_TOKENS = 100
_LONG_STEP_SECONDS = 0.5

logger = logging.getLogger(__name__)


class Measure(Protocol):
    """What `gpt.evaluation.likelihood.split_likelihood` does; passed in because evaluation builds on training."""

    def __call__(
        self,
        model: GPTModel,
        reader: TokenReader,
        *,
        autocast: torch.dtype | None,
        part: tuple[int, int],
        give_up: Callable[[], bool],
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
        stop = Stop()
        stack.enter_context(stop.handled())
        saver: Saver | None = None
        if accelerator.is_main_process:
            stack.enter_context(checkpoints.single_trainer(folder))
            verify_shards(paths.TOKENS)
            keep_last, keep_every = params.train.checkpoint_keep_last, params.train.checkpoint_keep_every
            saver = stack.enter_context(Saver(folder, keep_last=keep_last, keep_every=keep_every))
        accelerator.wait_for_everyone()
        trainer = Trainer(params, accelerator, measure, folder, saver, stop)
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
        stop.defer()
        trainer.fit()
        trainer.write_outputs()
        if saver:
            saver.wait()
            checkpoints.remove(folder)


class Trainer:
    """Everything a run is at a step: model, optimizer, counters, and the history that becomes plots/."""

    def __init__(
        self,
        params: Params,
        accelerator: Accelerator,
        measure: Measure,
        folder: Path,
        saver: Saver | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.params, self.settings, self.accelerator, self._measure = params, params.train, accelerator, measure
        self._folder, self._saver, self._stop = folder, saver, stop or Stop()
        self.batches = Batches(
            TokenReader(paths.TOKENS, "train"), params.model.block_size, params.train.batch_size, params.base.seed
        )
        self._validation = TokenReader(paths.TOKENS, "validation")
        self._encoding = load_tokenizer(paths.TOKENIZER)
        self.bare_model = self._new_model().to(accelerator.device)
        self.bare_model.checkpoint_activations = params.launch.activation_checkpointing
        if params.launch.strategy == "fsdp":
            shard(self.bare_model, accelerator)
        optimizer = build_optimizer(self.bare_model, params.train)
        size = params.launch.micro_batch_size
        self.take_step = TrainStep(
            self.bare_model, optimizer, params.train, accelerator, micro_batch_size=size, seed=params.base.seed
        )
        self._tokens_per_step = params.train.batch_size * params.model.block_size
        self._precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
        self.step = 0
        self.run: str | None = None
        self.tracker: Tracker | None = None
        self.history: dict[str, list[dict[str, float]]] = {"training": [], "validation": []}
        # Of the steps taken since the last line of the history, on the device: to read them the host would wait for every step.
        self._losses = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self._norm = torch.zeros((), device=accelerator.device)
        self._logged_taken = self._logged_skipped = 0
        self._sampled = self._saved = 0
        self._has_long_steps = False
        # How often training went back, and how many batches it went past.
        self._rollbacks = self._passed_over = 0
        self._first_state = copy.deepcopy(self._state())

    def fit(self) -> None:
        """Train to `max_steps`; validate, sample, log and save on the way. What a stop had cut short comes first."""
        progress = Progress(self.step, self.settings.max_steps) if self.accelerator.is_main_process else None
        meters = self._meters()
        if self.step:
            self._after_step(meters, progress)
        while self.step < self.settings.max_steps:
            self._train_step()
            if self._is_due("log_interval") and not self._log_training(meters, progress):
                self._roll_back()
                meters.restart(self.step)
                continue
            self._after_step(meters, progress)
        if progress:
            progress.close()

    def _after_step(self, meters: Meters, progress: Progress | None) -> None:
        """Validate, sample and save if the step asks for it; raise `Interrupted` if a signal does."""
        # All processes stop after the same step. Asking makes them wait for each other; with short steps, only when they do anyway.
        is_asking = self._is_due("log_interval") or self._has_long_steps or self.accelerator.num_processes == 1
        signum = self._agreed_signal() if is_asking else 0
        is_evaluating = self._is_due("eval_interval") and self._validated != self.step and not signum
        is_sampling = self._is_due("sample_interval") and self._sampled != self.step and not signum
        is_saving = self.step % self.settings.checkpoint_interval == 0 and self._saved != self.step
        # While steps are skipped there is nothing new, and the checkpoint of before them must stay.
        is_saving = is_saving and not self.take_step.guard.read().in_a_row
        if not (signum or is_evaluating or is_sampling or is_saving):
            return
        with meters.paused():
            with eager_blocks(self.bare_model):
                if is_evaluating and not self._validate(progress):
                    signum = self._agreed_signal()
                elif is_sampling:
                    self._sample()
            if is_saving or (signum and self._saved != self.step):
                self._save(signum)
        if signum:
            self._stop_after_save(signum)

    def _stop_after_save(self, signum: int) -> None:
        is_saved = self._saver is None or self._saver.wait()
        # A launcher ends all processes as soon as one of them ends: none may before the checkpoint is written.
        self.accelerator.wait_for_everyone()
        stopped = f"stopped by {signal.Signals(signum).name} after step {self.step}"
        if not is_saved:
            raise Interrupted(
                signum, f"{stopped}, which could not be saved; run it again to go on from the last checkpoint"
            )
        raise Interrupted(signum, f"{stopped}; run it again to go on from there")

    def _agreed_signal(self) -> int:
        """Return a signal that one of the processes was sent, or 0."""
        return int(largest_of_processes(self.accelerator, self._stop.signum))

    def _is_due(self, interval: str) -> bool:
        return self.step % getattr(self.settings, interval) == 0 or self.step == self.settings.max_steps

    def _train_step(self) -> None:
        loss, norm, skipped = self.take_step(self.step, self.read_batch)
        self._losses += torch.where(skipped, 0.0, loss)
        self._norm = torch.where(skipped, self._norm, norm)
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
        return self.batches.read(self.step + self._passed_over, first, last)

    def resume(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Go on from a checkpoint, if there is one."""
        if checkpoint is None:
            return
        self._load(checkpoint)
        self.run = checkpoint.state["run"]
        if self.accelerator.is_main_process:
            print(f"resuming after step {self.step} of {self.settings.max_steps}", flush=True)

    def _load(self, checkpoint: checkpoints.Checkpoint) -> None:
        mine = self.bare_model.state_dict()
        self.bare_model.load_state_dict(
            {name: share_of(tensor, mine[name]) for name, tensor in checkpoint.weights.items()}
        )
        load_optimizer_tensors(self.bare_model, self._bare_optimizer, checkpoint.optimizer)
        state = checkpoint.state
        self.step = self._saved = checkpoint.step
        self.history, self._sampled = state["history"], state["sampled"]
        self._passed_over, self._rollbacks = state["passed_over"], state["rollbacks"]
        self._losses.fill_(state["losses"])
        self._norm.fill_(state["norm"])
        self._logged_taken, self._logged_skipped = state["logged"]
        self.take_step.guard.load_state(state["guard"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def write_outputs(self) -> None:
        """Write models/base, plots/ and models/run.json on rank 0; raise `UserError` if there are weights that are not finite."""
        model = self._whole_model()
        if not self.accelerator.is_main_process:
            return
        if not all(weight.isfinite().all() for weight in model.state_dict().values()):
            raise self._diverged("weights are not finite after the last step")
        if not self.history["training"]:
            raise self._diverged("not one step could be taken")
        save_model(model, paths.TOKENIZER, paths.BASE_MODEL)
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

    def _log_training(self, meters: Meters, progress: Progress | None) -> bool:
        """Write a line of the history; return False, and write nothing, if too many steps in a row were skipped."""
        verdicts = self.take_step.guard.read()  # waits for the device: it has done all steps
        reading = meters.read(self.step)
        seconds = largest_of_processes(self.accelerator, self._tokens_per_step / reading.tokens_per_second)
        self._has_long_steps = seconds > _LONG_STEP_SECONDS
        if verdicts.most_in_a_row > self.settings.max_skips:
            return False
        if (skipped := verdicts.skipped - self._logged_skipped) and self.accelerator.is_main_process:
            logger.warning(
                "until step %d: %d skipped since the last line, with a loss or gradient not finite or far above the last ones'",
                self.step,
                skipped,
            )
        if taken := verdicts.taken - self._logged_taken:
            self._log_line(float(self._losses) / taken, verdicts.skipped, reading, progress)
        self._losses.zero_()
        self._logged_taken, self._logged_skipped = verdicts.taken, verdicts.skipped
        return True

    def _log_line(self, loss: float, skipped: int, reading: Reading, progress: Progress | None) -> None:
        row = {
            "step": self.step,
            "train_loss": loss,
            "learning_rate": learning_rate(self.step - 1, self.settings),
            "gradient_norm": float(self._norm),
        }
        self.history["training"].append(row)
        if self.tracker:
            values = {key: value for key, value in row.items() if key != "step"}
            counts = {"skipped_steps": skipped, "rollbacks": self._rollbacks}
            self.tracker.log_metrics("train", self.step, values | reading.metrics() | counts)
        if progress:
            progress.update(self.step, loss, reading)

    def _roll_back(self) -> None:
        """Go back to before the steps that were skipped, and past their data; raise `UserError` if that was done too often."""
        behind, skipped, rollbacks = self.step, self.take_step.guard.read().skipped, self._rollbacks + 1
        if rollbacks > self.settings.max_rollbacks:
            raise self._diverged(
                f"the last {self.settings.max_skips} steps or more until step {behind} had to be skipped"
            )
        if self._saver:
            self._saver.wait()
        self.accelerator.wait_for_everyone()
        next_batch = behind + self._passed_over
        self._load(self._last_good())
        self.take_step.guard.forget_row(skipped)
        self._logged_skipped, self._rollbacks, self._passed_over = skipped, rollbacks, next_batch - self.step
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            logger.warning(
                "step %d: more than %d steps in a row skipped; going back to step %d and past %d batches (%d of %d times)",
                behind,
                self.settings.max_skips,
                self.step,
                behind - self.step,
                rollbacks,
                self.settings.max_rollbacks,
            )
            # What was saved since is of steps that are not this run's any more.
            checkpoints.remove_newer(self._folder, self.step)
        self._save()

    @property
    def _validated(self) -> int:
        rows = self.history["validation"]
        return int(rows[-1]["step"]) if rows else 0

    def _validate(self, progress: Progress | None) -> bool:
        """Write the validation loss down; return False, and write nothing, if a signal cut it short."""
        part = (self.accelerator.process_index, self.accelerator.num_processes)
        autocast = None if self._precision == "fp32" else DTYPES[self._precision]
        # All stop before the same batch, for a split model needs them all.
        sums = self._measure(
            self.bare_model, self._validation, autocast=autocast, part=part, give_up=lambda: bool(self._agreed_signal())
        )
        found = torch.tensor([sums.nats, float(sums.tokens)], dtype=torch.float64, device=self.accelerator.device)
        nats, tokens = self.accelerator.reduce(found, "sum").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        if self._agreed_signal():
            return False
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
        return True

    def _sample(self) -> None:
        """Log a text that the model writes from nothing; its own generator leaves training's random numbers alone."""
        self._sampled = self.step
        model = self._whole_model()
        if self.tracker:
            sampling = Sampling(_SAMPLE_TOKENS, temperature=0.8, top_k=50, seed=self.step)
            pieces = generate_text(model, self._encoding, "", sampling)
            self.tracker.log_text(f"samples/step_{self.step:08d}.txt", "".join(pieces))

    def _last_good(self) -> checkpoints.Checkpoint:
        """Return the newest checkpoint of before the steps that are being skipped; the state at step 0 if there is none."""

        def is_regular(state: dict[str, Any]) -> bool:
            # What a signal had saved depends on when it came, and a run that was stopped shall end as one that was not.
            return state["step"] % self.settings.checkpoint_interval == 0 and not state["guard"]["verdicts"]["in_a_row"]

        found = checkpoints.load_latest(self._folder, is_regular) or checkpoints.load_latest(self._folder)
        return found or checkpoints.Checkpoint(0, self._new_model().state_dict(), {}, copy.deepcopy(self._first_state))

    def _whole_model(self) -> GPTModel:
        """Return the model, or on rank 0 a whole copy of one that is split; all processes must ask for it."""
        if not is_sharded(self.bare_model):
            return self.bare_model
        weights = gather(self.bare_model.state_dict(), keep=self.accelerator.is_main_process)
        if not weights:
            return self.bare_model
        model = self._new_model()
        model.load_state_dict(weights)
        return model.to(self.accelerator.device)

    def _new_model(self) -> GPTModel:
        model = GPTModel(GPTConfig(vocab_size=self._encoding.n_vocab, **self.params.section("model")))
        model.init_weights(self.params.base.seed)
        return model

    def _diverged(self, reason: str) -> UserError:
        return UserError(
            f"training diverged: {reason}; lower train.learning_rate or train.grad_clip in params.yaml, or lengthen the warm-up"
            " (checkpoints are from before)"
        )

    def _save(self, signum: int = 0) -> None:
        self._saved = self.step
        weights, optimizer = self.bare_model.state_dict(), optimizer_tensors(self.bare_model, self._bare_optimizer)
        if is_sharded(self.bare_model):
            weights, optimizer = (gather(part, keep=self._saver is not None) for part in (weights, optimizer))
        if self._saver:
            self._saver.save(checkpoints.Checkpoint(self.step, weights, optimizer, self._state()), prune=not signum)

    def _state(self) -> dict[str, Any]:
        """Return all that decides how training goes on but the tensors, as JSON values."""
        scaler = self.accelerator.scaler
        return {
            "run": self.run,
            "history": self.history,
            "losses": float(self._losses),
            "norm": float(self._norm),
            "logged": [self._logged_taken, self._logged_skipped],
            "sampled": self._sampled,
            "rollbacks": self._rollbacks,
            "passed_over": self._passed_over,
            "guard": self.take_step.guard.state(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }


def _check_inputs() -> None:
    """Raise `UserError` if the tokens were not made by the tokenizer that would be packed with the model."""
    if read_index(paths.TOKENS)["tokenizer_id"] != tokenizer_id(paths.TOKENIZER):
        raise UserError("data/tokens: made by another tokenizer than models/tokenizer; run `gpt tokenize` again")
