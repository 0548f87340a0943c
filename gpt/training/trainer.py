"""The training loop: `TrainStep` is the mathematics, `Trainer` everything that happens between steps.

What is trained on which data is a `Job`: pretraining, or a kind of fine-tuning. A step is a pure function of the weights, the seed
and the step's number: data order, learning rate and dropout all follow from them. So a run that was killed and resumed ends with
the same bytes as one that was not.
"""

import logging
import math
import signal
from pathlib import Path

import torch
from accelerate import Accelerator

from gpt.errors import Interrupted
from gpt.processes.agreement import largest_of_processes
from gpt.processes.precision import autocast_type
from gpt.processes.signals import Stop
from gpt.tracking.progress import Progress
from gpt.tracking.record import Record
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.checkpointer import Checkpointer
from gpt.training.checkpoints.rollback import roll_back
from gpt.training.checkpoints.saver import Saver
from gpt.training.job import Job
from gpt.training.meters import Meters, start_meters
from gpt.training.state import RunState
from gpt.training.steps.compilation import eager_blocks
from gpt.training.steps.optimizer import (
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    stable_steps,
    trained_weights,
)
from gpt.training.steps.sharding import shard
from gpt.training.steps.step import Batch, TrainStep

# Several processes obey a signal after so long at most, not counting what is done between two steps.
_STOP_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Trainer:
    """One run: its model, its step, its `state`, and whom it tells about them."""

    def __init__(
        self,
        job: Job,
        accelerator: Accelerator,
        folder: Path,
        saver: Saver | None = None,
        stop: Stop | None = None,
    ) -> None:
        """Build what is trained; the job's data are open."""
        self.job, self.settings, self.accelerator = job, job.params.train, accelerator
        launch = job.params.launch
        self._stop = stop or Stop()
        self.bare_model = job.new_model().to(accelerator.device)
        self.bare_model.checkpoint_activations = launch.activation_checkpointing
        if launch.strategy == "fsdp":
            shard(self.bare_model, accelerator)
        optimizer = build_optimizer(self.bare_model, self.settings, job.learning_rates)
        self.take_step = TrainStep(
            self.bare_model,
            optimizer,
            self.settings,
            accelerator,
            micro_batch_size=launch.micro_batch_size,
            seed=job.params.base.seed,
        )
        self._stable_steps = stable_steps(self.settings)
        self.record = Record()
        self.state = RunState(
            guard=self.take_step.guard,
            scaler=accelerator.scaler or torch.amp.GradScaler("cpu", enabled=False),  # pyright: ignore[reportPrivateImportUsage]
            loss_sum=torch.zeros((), dtype=torch.float64, device=accelerator.device),
            gradient_norm=torch.zeros((), device=accelerator.device),
        )
        self._beginning = self.state.to_json()
        self._checkpointer = Checkpointer(self.bare_model, optimizer, self.state, accelerator, folder, saver)
        if tensors := job.initial_optimizer(self.bare_model.config):
            load_optimizer_tensors(self.bare_model, optimizer, tensors)
        self._asks_every_step = True  # until it is known how long steps are; when it asks changes no result

    def resume(self) -> bool:
        """Go on from the newest checkpoint; return whether there is one. Raises `UserError` if other processes find another."""
        checkpoint = self._checkpointer.find()
        if checkpoint is None:
            return False
        self._checkpointer.load(checkpoint)
        if self.accelerator.is_main_process:
            print(f"resuming after step {self.state.step} of {self.settings.max_steps}", flush=True)
        return True

    def fit(self) -> None:
        """Train to `max_steps`; log, validate, sample and save on the way. Raises `Interrupted` after a signal."""
        state = self.state
        if self.accelerator.is_main_process:
            self.record.progress = Progress(state.step, self.settings.max_steps, self.job.figure)
        self.stop_if_asked()
        self.take_step.settle_sums(state.step, self.read_batch)
        meters = start_meters(
            self.bare_model, self.accelerator, self.settings.precision, state.step, self.job.tokens_per_step
        )
        if state.step:
            self._after_step(meters)  # what the stop before this start had cut short
        elif self.job.begins_trained and not state.validation_rows:  # one that went back has a row
            self._measure_beginning(meters)
        while state.step < self.settings.max_steps:
            self._train_step()
            if self._is_due("log_interval") and not self._log_training(meters):
                self._go_back(meters)
            self._after_step(meters)
        if self.record.progress:
            self.record.progress.close()

    def _go_back(self, meters: Meters) -> None:
        """Go back to before the skipped steps and past their data; warn if a source is then seen more often than it may be."""
        roll_back(self.state, self.settings, self._checkpointer, self.accelerator, self._first_checkpoint)
        meters.restart(self.state.step)
        excess = self.job.describe_excess(self.settings.max_steps + self.state.skipped_batches)
        if excess and self.accelerator.is_main_process:
            logger.warning("with the batches that training went past, %s", excess)

    def _measure_beginning(self, meters: Meters) -> None:
        """Validate and sample the weights that were there already: curves begin with what they could do."""
        with meters.paused(), eager_blocks(self.bare_model):
            if not self._validate():
                self.stop_if_asked()
            self._sample()

    def _train_step(self) -> None:
        state = self.state
        loss, norm, is_skipped = self.take_step(state.step, self.read_batch)
        state.loss_sum += torch.where(is_skipped, 0.0, loss)
        state.gradient_norm = torch.where(is_skipped, state.gradient_norm, norm)
        state.step += 1

    def read_batch(self, first: int, last: int) -> Batch:
        """Return sequences [first, last) of the next step's global batch."""
        return self.job.read(self.state.step + self.state.skipped_batches, first, last)

    def _log_training(self, meters: Meters) -> bool:
        """Write a training row; write nothing and return False if too many steps in a row were skipped."""
        state, counts = self.state, self.state.guard.counts()  # waits for the device: it has done all steps
        reading = meters.read(state.step)
        seconds = largest_of_processes(self.accelerator, self.job.tokens_per_step / reading.tokens_per_second)
        self._asks_every_step = seconds * self.settings.log_interval > _STOP_SECONDS
        if counts.most_in_a_row > self.settings.max_skips:
            return False
        taken, skipped = counts.taken - state.logged_taken, counts.skipped - state.logged_skipped
        if skipped and self.accelerator.is_main_process:
            logger.warning(
                "step %d: skipped %d of the last %d steps, as their loss or gradient was not finite or far above that of the steps"
                " before (train.skip_sigma = %g); a skipped step leaves the weights as they were",
                *(state.step, skipped, skipped + taken, self.settings.skip_sigma),
            )
        if taken:
            row = {
                "step": state.step,
                "train_loss": float(state.loss_sum) / taken,
                "learning_rate": learning_rate(state.step - 1, self.settings),
                "gradient_norm": float(state.gradient_norm),
            }
            state.training_rows.append(row)
            self.record.training(row, {"skipped_steps": counts.skipped, "rollbacks": state.rollbacks}, reading)
        state.loss_sum.zero_()
        state.logged_taken, state.logged_skipped = counts.taken, counts.skipped
        return True

    def _after_step(self, meters: Meters) -> None:
        """Validate, sample and save if the step asks for it; save and raise `Interrupted` if a signal does."""
        state = self.state
        # All processes stop after the same step. To agree they wait for each other: if steps are short, only where they do anyway.
        is_asking = self._is_due("log_interval") or self._asks_every_step or self.accelerator.num_processes == 1
        signum = self._agreed_signal() if is_asking else 0
        is_validating = self._is_due("eval_interval") and state.last_validation != state.step and not signum
        is_sampling = self._samples_are_due() and state.last_sample != state.step and not signum
        is_benchmarking = self._benchmarks_are_due() and not signum
        is_scheduled = self._save_is_scheduled()
        is_stable = self._stable_is_due() and not signum
        if not (signum or is_validating or is_sampling or is_benchmarking or is_scheduled or is_stable):
            return
        with meters.paused():
            with eager_blocks(self.bare_model):
                if is_validating and not self._validate():
                    signum = self._agreed_signal()
                elif is_sampling:
                    self._sample()
                if is_benchmarking and not signum and not self._score_benchmarks():
                    signum = self._agreed_signal()
            if is_scheduled or (signum and state.last_save != state.step):
                self._checkpointer.save(is_scheduled=is_scheduled, is_stable=is_stable)
            elif is_stable:
                self._checkpointer.keep_stable()
        if signum:
            self._stop_after_save(signum)

    def _samples_are_due(self) -> bool:
        """Whether the model writes after this step: with each evaluation, and in between if params.yaml says so."""
        return self._is_due("eval_interval") or (self.settings.sample_interval > 0 and self._is_due("sample_interval"))

    def _is_due(self, interval: str) -> bool:
        return self.state.step % getattr(self.settings, interval) == 0 or self.state.step == self.settings.max_steps

    def _save_is_scheduled(self) -> bool:
        """Whether `checkpoint_interval` steps are over. While steps are skipped a save waits: the one before them must stay."""
        interval = self.settings.checkpoint_interval
        if self.state.step // interval == self.state.last_scheduled_save // interval:
            return False
        counts = self.state.guard.counts()
        return not counts.in_a_row and counts.most_in_a_row <= self.settings.max_skips

    def _stable_is_due(self) -> bool:
        """Whether this is the state before the decay, and to be kept: not if training is about to go back to before it."""
        is_there = self.state.step == self._stable_steps and self.state.last_stable != self.state.step
        if not (is_there and self.settings.checkpoint_keep_stable):
            return False
        return self.state.guard.counts().most_in_a_row <= self.settings.max_skips

    def _validate(self) -> bool:
        """Write a validation row; write nothing and return False if a signal cut the measurement short."""
        figures = self.job.validate(self.bare_model, self.accelerator, self._autocast, self._gives_up)
        if figures is None:
            return False
        if not math.isfinite(figures["validation_loss"]):
            if self.accelerator.is_main_process:
                logger.warning("step %d: the validation loss is not finite", self.state.step)
            return True
        row = {"step": self.state.step, **figures}
        self.state.validation_rows.append(row)
        self.record.validation(row)
        return True

    def _sample(self) -> None:
        step = self.state.last_sample = self.state.step
        is_writer = self.accelerator.is_main_process
        self.record.samples(step, self.job.write_samples(self.bare_model, seed=step, is_writer=is_writer))

    def _benchmarks_are_due(self) -> bool:
        if not self.job.has_benchmarks or self.state.last_benchmark == self.state.step:
            return False
        return self.state.step % self.settings.benchmark_interval == 0

    def _score_benchmarks(self) -> bool:
        """Tell what a part of the benchmarks scores; tell nothing and return False if a signal cut it short."""
        figures = self.job.score_benchmarks(self.bare_model, self.accelerator, self._autocast, self._gives_up)
        if figures is None:
            return False
        self.state.last_benchmark = self.state.step
        self.record.benchmarks(self.state.step, figures)
        return True

    def stop_if_asked(self) -> None:
        """Save and raise `Interrupted` if one of the processes was sent a signal; all must call this."""
        if signum := self._agreed_signal():
            if self.state.last_save != self.state.step:
                self._checkpointer.save(is_scheduled=False)
            self._stop_after_save(signum)

    @property
    def _autocast(self) -> torch.dtype | None:
        return autocast_type(self.settings.precision)

    def _gives_up(self) -> bool:
        return bool(self._agreed_signal())

    def _agreed_signal(self) -> int:
        """Return a signal that one of the processes was sent, or 0."""
        return int(largest_of_processes(self.accelerator, self._stop.signum))

    def _stop_after_save(self, signum: int) -> None:
        is_saved = self._checkpointer.wait()
        # A launcher ends all processes as soon as one of them ends: none may before the checkpoint is written.
        self.accelerator.wait_for_everyone()
        stopped = f"stopped by {signal.Signals(signum).name} after step {self.state.step}"
        if not is_saved:
            raise Interrupted(
                signum, f"{stopped}, which could not be saved; run it again to go on from the last checkpoint"
            )
        raise Interrupted(signum, f"{stopped}; run it again to go on from there")

    def _first_checkpoint(self) -> Checkpoint:
        """Return what the run began with: to go back to before there is a checkpoint. Raises `UserError` if that is not there."""
        self.job.check_unchanged()
        model = self.job.new_model()
        measured = {"validation_rows": [row for row in self.state.validation_rows if not row["step"]]}
        optimizer = self.job.initial_optimizer(model.config)
        return Checkpoint(0, trained_weights(model), optimizer, self._beginning | measured)
