"""How fast training is, and how much of the device it uses. Measurements, not results: they go to MLflow, never to plots/.

MFU (model FLOPs utilisation, Chowdhery et al. 2022) is the FLOPs that the model needs over those that the device could do.
A device whose peak is not known for sure has none: n/a, not a guess.
"""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator

from gpt.model.transformer import GPTModel
from gpt.processes.cores import CoreWatch
from gpt.processes.peaks import device_peak
from gpt.tracking.progress import Reading


def start_meters(
    model: GPTModel, accelerator: Accelerator, precision: str, step: int, tokens_per_step: int
) -> "Meters":
    """Measure from now on what training a model makes of this machine; the peak and other work are looked at in process 0 alone."""
    device, is_main = accelerator.device, accelerator.is_main_process
    return Meters(
        step,
        tokens_per_step=tokens_per_step,
        flops_per_token=flops_per_token(model),
        device=device,
        processes=accelerator.num_processes,
        peak=device_peak(device, precision) if is_main else None,
        cores=CoreWatch() if is_main and device.type == "cpu" else None,
    )


class Meters:
    """Speed of training alone, without validation, samples and saves, from `step` on.

    `tokens_per_step` are those of the global batch; `peak` is one device's in FLOP/s, None if it is not known. `cores` says why
    where other work makes training slow.
    """

    def __init__(
        self,
        step: int,
        *,
        tokens_per_step: int,
        flops_per_token: float,
        device: torch.device,
        processes: int,
        peak: float | None,
        cores: CoreWatch | None = None,
    ) -> None:
        self._device, self._tokens_per_step, self._cores = device, tokens_per_step, cores
        self._mfu_per_rate = flops_per_token / (processes * peak) if peak else None
        self.restart(step)

    def restart(self, step: int) -> None:
        """Measure from now and from `step` on."""
        self._step, self._since = step, time.perf_counter()

    def read(self, step: int) -> Reading:
        """Return what was measured since the last reading; on a GPU, call it once the loss has been read and the queue is empty."""
        now = time.perf_counter()
        rate = (step - self._step) * self._tokens_per_step / (now - self._since)
        self._step, self._since = step, now
        if self._cores:
            self._cores.look()
        mfu = None if self._mfu_per_rate is None else possible_share(rate * self._mfu_per_rate)
        return Reading(rate, mfu, peak_memory_bytes(self._device))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # steps in the queue are training
        begun = time.perf_counter()
        yield
        self._since += time.perf_counter() - begun


def possible_share(value: float) -> float | None:
    """Return a share of the device's peak; None if it is above 1: then the peak was measured in a bad moment, and is not known."""
    return value if value <= 1 else None


def flops_per_token(model: GPTModel) -> float:
    """Return the FLOPs that training needs for a token of a full context, by PaLM's convention (appendix B).

    6 N + 12 L H Q T. N are the weights that multiply every token: the matrices of the blocks, whatever their shapes (grouped
    keys and values, a gated feed-forward), and the output head, tied or not; two FLOPs a weight forward, four backward. Looking
    an embedding up, norms and biases count nothing. The second term is attention: L layers, H heads of size Q, scores
    and weighted values over the full square of T = block_size tokens, though the causal half is never needed, and once a query
    head, though groups share their keys. What is computed again under activation checkpointing does not count.
    """
    config = model.config
    matrices = sum(parameter.numel() for parameter in model.trf_blocks.parameters() if parameter.dim() >= 2)
    attention = config.n_layer * config.n_head * config.head_size * config.block_size
    return 6 * (matrices + model.head_weight.numel()) + 12 * attention


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has had: allocated on its GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # getrusage's figure would be the parent's where that was larger.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
