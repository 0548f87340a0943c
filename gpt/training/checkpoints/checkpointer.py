"""What is saved and loaded together: a model's trained weights, its optimizer and the state of its run.

Tensors of a model that is split over processes are gathered first, so every method but `wait` is called by all processes together.
"""

from pathlib import Path

import torch
from accelerate import Accelerator

from gpt.errors import UserError
from gpt.model.transformer import GPTModel
from gpt.processes.agreement import is_same_everywhere
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.saver import Saver
from gpt.training.state import RunState
from gpt.training.steps.optimizer import load_optimizer_tensors, optimizer_tensors, trained_weights
from gpt.training.steps.sharding import copy_to_cpu, to_local_shard


class Checkpointer:
    """Saves to and loads from one run's `folder`, which all processes see. `saver` is there in process 0 only."""

    def __init__(
        self,
        model: GPTModel,
        optimizer: torch.optim.Optimizer,
        state: RunState,
        accelerator: Accelerator,
        folder: Path,
        saver: Saver | None,
    ) -> None:
        self._model, self._optimizer, self._state = model, optimizer, state
        self._accelerator, self._folder, self._saver = accelerator, folder, saver

    def save(self, *, is_scheduled: bool, is_stable: bool = False) -> None:
        """Begin to save; training goes on as soon as the tensors are copied. What a signal asks for is not scheduled.

        With `is_stable` the same copy is kept as the state before the decay.
        """
        state = self._state
        state.last_save = state.step
        if is_scheduled:
            state.last_scheduled_save = state.step
        checkpoint = self._copy(is_scheduled)
        if is_stable:
            state.last_stable = state.step
        if self._saver and checkpoint:
            self._saver.save(checkpoint, is_stable=is_stable)

    def keep_stable(self) -> None:
        """Begin to keep the state before the decay, which outlives the run."""
        checkpoint = self._copy(is_scheduled=True)
        self._state.last_stable = self._state.step
        if self._saver and checkpoint:
            self._saver.keep_stable(checkpoint)

    def _copy(self, is_scheduled: bool) -> Checkpoint | None:
        """Return what is to be saved, with tensors of its own; None where this process saves nothing."""
        self.wait()  # so that memory holds one copy at a time
        # Weights first: reading them frees the full weights that a sharded model had gathered, which its optimizer does not know.
        weights = copy_to_cpu(trained_weights(self._model), keep=self._saver is not None)
        optimizer = copy_to_cpu(optimizer_tensors(self._model, self._optimizer), keep=self._saver is not None)
        state = self._state
        return Checkpoint(state.step, weights, optimizer, state.to_json(), is_scheduled) if self._saver else None

    def wait(self) -> bool:
        """Wait until the last save of this process is written; return whether it was, True if it had none."""
        return self._saver is None or self._saver.wait()

    def find(self, *, only_scheduled: bool = False) -> Checkpoint | None:
        """Return the newest whole checkpoint, or None; raise `UserError` if other processes find another."""
        found = checkpoints.load_latest(self._folder, only_scheduled=only_scheduled)
        if not is_same_everywhere(self._accelerator, found.step if found else -1):
            raise UserError(f"{self._folder}: processes find different checkpoints; let all machines share this folder")
        return found

    def load(self, checkpoint: Checkpoint) -> None:
        """Make model, optimizer and state those of `checkpoint`."""
        current, trained = self._model.state_dict(), trained_weights(self._model)
        kept = {name: tensor for name, tensor in current.items() if name not in trained}
        weights = {name: to_local_shard(tensor, trained[name]) for name, tensor in checkpoint.weights.items()}
        self._model.load_state_dict(kept | weights)
        load_optimizer_tensors(self._model, self._optimizer, checkpoint.optimizer)
        self._state.load_json(checkpoint.state)

    def remove_newer(self, step: int) -> None:
        """Remove the checkpoints of later steps than `step`; only process 0 does."""
        if self._accelerator.is_main_process:
            checkpoints.remove_newer(self._folder, step)
