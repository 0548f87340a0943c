"""The optimizer step: gradients of micro-batches summed, clipped, applied. Accelerate says on which device and in which process.

Nothing in a step makes the host wait for the device: losses and norms stay there until somebody reads them. A step needs no
folders and no params.yaml, so that a benchmark measures the very code that training runs.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from gpt.model.transformer import GPTModel
from gpt.params.training import Train
from gpt.processes.agreement import add_up_over_processes
from gpt.training.steps.guard import Guard
from gpt.training.steps.optimizer import set_learning_rate
from gpt.training.steps.sharding import full_tensor, is_sharded, synchronise_gradients


@dataclass(frozen=True)
class Batch:
    """A part of a global batch: what the model is called with, and what the loss is the mean over."""

    tensors: dict[str, torch.Tensor]
    "Arguments of the model by their names, on the CPU."
    count: int
    "Of the whole global batch: its targets, or its examples."


def token_batch(tokens: torch.Tensor, targets: torch.Tensor, sequences: int) -> Batch:
    """Return a part, (B, T) both, of a global batch of so many sequences in which every token has a target."""
    return Batch({"tokens": tokens, "targets": targets}, sequences * targets.shape[1])


ReadBatch = Callable[[int, int], Batch]
"The sequences [first, last) of a global batch."


class TrainStep:
    """Takes optimizer steps with the gradient of the mean over all targets of the global batch, however it is split.

    `model` is on the accelerator's device and, called with a batch and a `scale`, returns the scaled loss to minimise and the loss,
    both summed over the batch; `optimizer` holds its parameters. A process computes an equal part of `settings.batch_size`
    sequences, `micro_batch_size` at a time. Raises `ValueError` if they do not divide.
    """

    def __init__(
        self,
        model: GPTModel,
        optimizer: torch.optim.Optimizer,
        settings: Train,
        accelerator: Accelerator,
        *,
        micro_batch_size: int,
        seed: int,
    ) -> None:
        self.bare_model, self.bare_optimizer = model, optimizer
        self.accelerator, self._settings, self._seed = accelerator, settings, seed
        self.model: nn.Module
        self._is_sharded = is_sharded(model)
        self.model, self.optimizer = (model, optimizer) if self._is_sharded else accelerator.prepare(model, optimizer)
        per_process, rest = divmod(settings.batch_size, accelerator.num_processes)
        if rest or per_process % micro_batch_size:
            split = f"{accelerator.num_processes} processes and micro-batches of {micro_batch_size}"
            raise ValueError(f"a batch of {settings.batch_size} sequences does not divide into {split}")
        begin = accelerator.process_index * per_process
        self._firsts = range(begin, begin + per_process, micro_batch_size)
        self._size = micro_batch_size
        self._drops = any(isinstance(module, nn.Dropout) and module.p for module in model.modules())
        self.guard = Guard(settings.skip_sigma, accelerator.device)

    @property
    def micro_batches(self) -> int:
        """How many micro-batches a process computes in a step."""
        return len(self._firsts)

    def __call__(self, number: int, read: ReadBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Take step `number` (from 0) on the batch that `read` gives, unless the guard finds it bad.

        Returns, on the device, the mean loss over the global batch's targets in nats, the norm of the whole gradient before
        clipping, and whether the step was skipped: weights and the optimizer's state are then as before.
        """
        set_learning_rate(self.optimizer, number, self._settings)
        self.model.train()
        loss = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for first in self._firsts:
            # Processes sum their gradients once a step, with the last micro-batch.
            with self._gradient_sync(first == self._firsts[-1]):
                loss += self._forward_backward(number, first, read)
        add_up_over_processes(self.accelerator, loss)
        norm = self._clip()
        bad = self.guard.is_bad(loss, norm)
        self._apply(bad)
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm, bad

    def settle_sums(self, number: int, read: ReadBatch) -> None:
        """Compute a micro-batch of step `number` and forget it, so that all later steps sum gradients over processes alike.

        DDP sums gradients in buckets, and after its first backward pass arranges these anew, in the order in which gradients came.
        The last digits of a sum over three or more processes depend on its place in a bucket: without this, the first step after a
        restart would differ from the same step of a run that was not stopped.
        """
        if self.accelerator.num_processes == 1 or self._is_sharded:
            return
        self.model.train()
        with self._unchanged_random_numbers():
            self._forward_backward(number, self._firsts[0], read)
        self.optimizer.zero_grad(set_to_none=True)

    def time_pass(self, number: int, read: ReadBatch, repeat: int = 2) -> tuple[float, float]:
        """Return the seconds of a micro-batch's first forward and backward pass, and of the fastest of `repeat` later ones.

        Weights, gradients and random numbers are as before. Processes of a sharded model must all call this.
        """
        device, seconds = self.accelerator.device, []
        self.model.train()
        # zero_grad does not clear the gradients that a sharded model keeps of passes without sync.
        with self._unchanged_random_numbers(), self._gradient_sync(self._is_sharded):
            for _ in range(1 + repeat):
                begun = time.perf_counter()
                try:
                    self._forward_backward(number, self._firsts[0], read)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                finally:
                    self.optimizer.zero_grad(set_to_none=True)
                seconds.append(time.perf_counter() - begun)
        return seconds[0], min(seconds[1:], default=seconds[0])

    def _unchanged_random_numbers(self) -> AbstractContextManager[None]:
        device = self.accelerator.device
        return torch.random.fork_rng([device] if device.type == "cuda" else [])

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[None]:
        """Let the next backward pass sum gradients over processes if it `is_last` of the step, else keep them for later."""
        if self._is_sharded:
            synchronise_gradients(self.model, is_last)
            return nullcontext()
        return nullcontext() if is_last else self.accelerator.no_sync(self.model)

    def _forward_backward(self, number: int, first: int, read: ReadBatch) -> torch.Tensor:
        """Add a micro-batch's gradient; return its part of the global batch's mean loss."""
        batch = read(first, first + self._size)
        tensors = {name: self._to_device(tensor) for name, tensor in batch.tensors.items()}
        self._seed_dropout(number, first)
        with self.accelerator.autocast() if self._is_sharded else nullcontext():  # a prepared model has it in itself
            # The mean over the targets of the global batch, whatever its split; DDP averages over processes.
            loss, nats = self.model(**tensors, scale=self.accelerator.num_processes / batch.count)
        self.accelerator.backward(loss)
        return nats / batch.count

    def _to_device(self, tokens: torch.Tensor) -> torch.Tensor:
        device = self.accelerator.device
        if device.type == "cuda":
            # From pageable memory the host would wait for the copy.
            return tokens.pin_memory().to(device, non_blocking=True)
        return tokens.to(device)

    def _seed_dropout(self, number: int, first: int) -> None:
        """Make dropout a function of seed, step and sequence, so that there is no random state to save."""
        if self._drops:
            words = np.random.SeedSequence([self._seed, number, first]).generate_state(1, np.uint64)
            torch.manual_seed(int(words[0]))

    def _apply(self, bad: torch.Tensor) -> None:
        """Take the optimizer's step, but not if `bad` is true."""
        bare: Any = self.bare_optimizer
        scaler = self.accelerator.scaler
        if scaler is None and bad.device.type == "cuda":
            # To ask would make the host wait. Fused optimizers leave everything as it was where this is 1.
            bare.found_inf = bad.float()
            try:
                self.optimizer.step()
            finally:
                del bare.found_inf
        elif not bad:
            self.optimizer.step()
        elif scaler is not None:
            scaler.update()  # lowers the scale if it was the overflow of that scale

    def _clip(self) -> torch.Tensor:
        """Clip the gradient to `grad_clip`; return its norm before."""
        self.accelerator.unscale_gradients(self.optimizer)  # fp16 only
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        sharded_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm, limit = full_tensor(sharded_norm), self._settings.grad_clip
        # Asking whether the norm is too large costs nothing on a CPU, where multiplying by one costs a pass over memory; on a
        # GPU asking would make the host wait.
        if limit and (norm.device.type != "cpu" or norm > limit):
            nn.utils.clip_grads_with_norm_(parameters, limit, sharded_norm)
        return norm
