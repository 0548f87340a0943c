"""The training loop: `TrainStep` is the mathematics, `Trainer` everything that happens between steps.

A step is a pure function of the weights, the seed and the step's number: data order, learning rate and dropout all
follow from them. So a run that was killed and resumed ends with the same bytes as one that was not.
"""

import copy
import logging
import math
import signal
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from gpt import paths
from gpt.errors import Interrupted, UserError
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import Params
from gpt.processes.agreement import is_same_everywhere, largest_of_processes
from gpt.processes.cores import CoreWatch
from gpt.processes.peaks import device_peak
from gpt.processes.signals import Stop
from gpt.tokens.batches import Batches
from gpt.tokens.shards import TokenReader
from gpt.tokens.tokenizer import load_tokenizer
from gpt.tracking.record import Record
from gpt.tracking.tracker import Progress
from gpt.training import checkpoint as checkpoints
from gpt.training.compilation import eager_blocks
from gpt.training.meters import Meters, flops_per_token
from gpt.training.optimizer import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors
from gpt.training.precision import autocast_type
from gpt.training.saver import Saver
from gpt.training.sharding import copy_to_cpu, shard, share_of
from gpt.training.step import TrainStep
from gpt.training.validation import Measure, validate, write_sample

# A signal waits so long at most, and for what is done between two steps.
_STOP_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Trainer:
    """Everything a run is at a step: model, optimizer, counters, and the record that becomes plots/."""

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
        self.take_step = TrainStep(
            self.bare_model,
            optimizer,
            params.train,
            accelerator,
            micro_batch_size=params.launch.micro_batch_size,
            seed=params.base.seed,
            end_of_text=None if params.train.attention_across_documents else self._encoding.eot_token,
        )
        self._tokens_per_step = params.train.batch_size * params.model.block_size
        self.step = 0
        self.run: str | None = None
        self.record = Record()
        # Of the steps taken since the last row of the record, on the device: to read them the host would wait for every step.
        self._losses = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        self._norm = torch.zeros((), device=accelerator.device)
        self._logged_taken = self._logged_skipped = 0
        self._sampled = self._saved = self._regular = 0
        self._asks_after_every_step = True  # until it is known how long steps are
        # How often training went back, and how many batches it went past.
        self._rollbacks = self._passed_over = 0
        self._first_state = copy.deepcopy(self._state())

    def fit(self) -> None:
        """Train to `max_steps`; validate, sample, log and save on the way. What a stop had cut short comes first."""
        if self.accelerator.is_main_process:
            self.record.progress = Progress(self.step, self.settings.max_steps)
        meters = self._meters()
        self.stop_if_asked()
        if self.step:
            self._after_step(meters)
        while self.step < self.settings.max_steps:
            self._train_step()
            if self._is_due("log_interval") and not self._log_training(meters):
                self._roll_back()
                meters.restart(self.step)
            self._after_step(meters)
        if self.record.progress:
            self.record.progress.close()

    def _after_step(self, meters: Meters) -> None:
        """Validate, sample and save if the step asks for it; raise `Interrupted` if a signal does."""
        # All processes stop after the same step. Asking makes them wait for each other; with short steps, only when they do anyway.
        is_asking = self._is_due("log_interval") or self._asks_after_every_step or self.accelerator.num_processes == 1
        signum = self._agreed_signal() if is_asking else 0
        is_evaluating = self._is_due("eval_interval") and self.record.validated != self.step and not signum
        is_sampling = self._is_due("sample_interval") and self._sampled != self.step and not signum
        is_saving = self._is_save_due()
        if not (signum or is_evaluating or is_sampling or is_saving):
            return
        with meters.paused():
            with eager_blocks(self.bare_model):
                if is_evaluating and not self._validate():
                    signum = self._agreed_signal()
                elif is_sampling:
                    self._sample()
            if is_saving or (signum and self._saved != self.step):
                self._save(is_regular=is_saving)
        if signum:
            self._stop_after_save(signum)

    def _is_save_due(self) -> bool:
        """Whether `checkpoint_interval` steps are over. While steps are skipped a save waits: the one before them must stay."""
        interval = self.settings.checkpoint_interval
        if self.step // interval == self._regular // interval:
            return False
        verdicts = self.take_step.guard.read()
        return not verdicts.in_a_row and verdicts.most_in_a_row <= self.settings.max_skips

    def stop_if_asked(self) -> None:
        """Save and raise `Interrupted` if one of the processes was sent a signal; all must ask."""
        if signum := self._agreed_signal():
            if self._saved != self.step:
                self._save(is_regular=False)
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
            peak=device_peak(device, self.settings.precision) if self.accelerator.is_main_process else None,
            cores=CoreWatch() if self.accelerator.is_main_process and device.type == "cpu" else None,
        )

    def read_batch(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sequences [first, last) of the batch that comes next, as inputs and targets."""
        return self.batches.read(self.step + self._passed_over, first, last)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one; raise `UserError` if other processes find another."""
        checkpoint = self._find_checkpoint()
        if checkpoint is None:
            return
        self._load(checkpoint)
        self.run = checkpoint.state["run"]
        if self.accelerator.is_main_process:
            print(f"resuming after step {self.step} of {self.settings.max_steps}", flush=True)

    def _find_checkpoint(self, *, only_regular: bool = False) -> checkpoints.Checkpoint | None:
        found = checkpoints.load_latest(self._folder, only_regular=only_regular)
        if not is_same_everywhere(self.accelerator, found.step if found else -1):
            raise UserError(f"{self._folder}: processes find different checkpoints; let all machines share this folder")
        return found

    def _load(self, checkpoint: checkpoints.Checkpoint) -> None:
        mine = self.bare_model.state_dict()
        self.bare_model.load_state_dict(
            {name: share_of(tensor, mine[name]) for name, tensor in checkpoint.weights.items()}
        )
        load_optimizer_tensors(self.bare_model, self.take_step.bare_optimizer, checkpoint.optimizer)
        state = checkpoint.state
        self.step = self._saved = checkpoint.step
        self.record.rows, self._sampled = state["rows"], state["sampled"]
        self._regular = state["regular"]
        self._passed_over, self._rollbacks = state["passed_over"], state["rollbacks"]
        self._losses.fill_(state["losses"])
        self._norm.fill_(state["norm"])
        self._logged_taken, self._logged_skipped = state["logged"]
        self.take_step.guard.load_state(state["guard"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _log_training(self, meters: Meters) -> bool:
        """Write a row of the record; return False, and write nothing, if too many steps in a row were skipped."""
        verdicts = self.take_step.guard.read()  # waits for the device: it has done all steps
        reading = meters.read(self.step)
        seconds = largest_of_processes(self.accelerator, self._tokens_per_step / reading.tokens_per_second)
        self._asks_after_every_step = seconds * self.settings.log_interval > _STOP_SECONDS
        if verdicts.most_in_a_row > self.settings.max_skips:
            return False
        if (skipped := verdicts.skipped - self._logged_skipped) and self.accelerator.is_main_process:
            logger.warning(
                "until step %d: %d skipped since the last line, with a loss or gradient not finite or far above the last ones'",
                self.step,
                skipped,
            )
        if taken := verdicts.taken - self._logged_taken:
            row = {
                "step": self.step,
                "train_loss": float(self._losses) / taken,
                "learning_rate": learning_rate(self.step - 1, self.settings),
                "gradient_norm": float(self._norm),
            }
            self.record.training(row, {"skipped_steps": verdicts.skipped, "rollbacks": self._rollbacks}, reading)
        self._losses.zero_()
        self._logged_taken, self._logged_skipped = verdicts.taken, verdicts.skipped
        return True

    def _roll_back(self) -> None:
        """Go back to before the steps that were skipped, and past their data; raise `UserError` if that was done too often."""
        behind, skipped, rollbacks = self.step, self.take_step.guard.read().skipped, self._rollbacks + 1
        if rollbacks > self.settings.max_rollbacks:
            raise _diverged(f"more than {self.settings.max_skips} steps in a row until step {behind} had to be skipped")
        if self._saver:
            self._saver.wait()
        self.accelerator.wait_for_everyone()
        next_batch = behind + self._passed_over
        # One that a signal had saved depends on when it came, and a run that was stopped shall end as one that was not.
        found = self._find_checkpoint(only_regular=True)
        self._load(
            found or checkpoints.Checkpoint(0, self._new_model().state_dict(), {}, copy.deepcopy(self._first_state))
        )
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
        self._save(is_regular=True)

    def _validate(self) -> bool:
        """Write the validation loss down; return False, and write nothing, if a signal cut it short."""
        autocast = autocast_type(self.settings.precision)
        figures = validate(
            self.bare_model,
            self._validation,
            self._measure,
            self.accelerator,
            autocast=autocast,
            give_up=lambda: bool(self._agreed_signal()),
        )
        if figures is None:
            return False
        if not math.isfinite(figures["validation_loss"]):
            if self.accelerator.is_main_process:
                logger.warning("step %d: the validation loss is not finite", self.step)
            return True
        self.record.validation({"step": self.step, **figures})
        return True

    def _sample(self) -> None:
        self._sampled = self.step
        is_writer = self.accelerator.is_main_process
        text = write_sample(self.bare_model, self._encoding, seed=self.step, is_writer=is_writer)
        self.record.sample(self.step, text)

    def check_result(self, model: GPTModel) -> None:
        """Raise `UserError` if the whole `model` that training ended with is none."""
        if not all(weight.isfinite().all() for weight in model.state_dict().values()):
            raise _diverged("weights are not finite after the last step")
        if not self.record.rows["training"]:
            raise _diverged("not one step could be taken")
        if self.record.validated != self.step:
            raise _diverged("the validation loss is not finite after the last step")

    def _new_model(self) -> GPTModel:
        model = GPTModel(GPTConfig(vocab_size=self._encoding.n_vocab, **self.params.section("model")))
        model.init_weights(self.params.base.seed)
        return model

    def _save(self, *, is_regular: bool) -> None:
        self._saved = self.step
        if is_regular:
            self._regular = self.step
        if self._saver:
            self._saver.wait()  # before there is another copy in memory
        # Weights first: to ask for them puts those back that a split model had gathered, which the optimizer does not know.
        weights = copy_to_cpu(self.bare_model.state_dict(), keep=self._saver is not None)
        optimizer = optimizer_tensors(self.bare_model, self.take_step.bare_optimizer)
        optimizer = copy_to_cpu(optimizer, keep=self._saver is not None)
        if self._saver:
            self._saver.save(checkpoints.Checkpoint(self.step, weights, optimizer, self._state(), is_regular))

    def _state(self) -> dict[str, Any]:
        """Return all that decides how training goes on but the tensors, as JSON values."""
        scaler = self.accelerator.scaler
        return {
            "run": self.run,
            "rows": self.record.rows,
            "losses": float(self._losses),
            "norm": float(self._norm),
            "logged": [self._logged_taken, self._logged_skipped],
            "sampled": self._sampled,
            "regular": self._regular,
            "rollbacks": self._rollbacks,
            "passed_over": self._passed_over,
            "guard": self.take_step.guard.state(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }


def _diverged(reason: str) -> UserError:
    return UserError(
        f"training diverged: {reason}; lower train.learning_rate or train.grad_clip in params.yaml, or lengthen the warm-up"
        " (checkpoints are from before)"
    )
