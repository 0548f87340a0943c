"""Where training runs: which processes, which device, which precision. Never what it computes."""

import math
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from gpt.errors import UserError
from gpt.params.launch import Launch
from gpt.processes.agreement import largest_of_processes
from gpt.processes.machine import bf16_time_ratio

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

RENDEZVOUS = "GPT_RENDEZVOUS"


@dataclass(frozen=True)
class Choice:
    """What a setting of `launch` comes to on this machine, and the figures that decided it."""

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


def is_worker() -> bool:
    """Whether this process was started by torchrun or accelerate."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def needs_workers(settings: Launch) -> bool:
    """Whether `gpt pretrain` has to start worker processes to be what `launch` asks for."""
    return not is_worker() and settings.num_processes * settings.num_machines > 1


def check_launch(settings: Launch) -> None:
    """Raise `UserError` for what this machine or this version would silently not do."""
    gpus = torch.cuda.device_count()
    if gpus and settings.num_processes > gpus:
        raise UserError(
            f"params.yaml: launch.num_processes = {settings.num_processes}, but this machine has {gpus} GPU(s); lower it"
        )
    if settings.strategy == "fsdp" and settings.precision == "fp16":
        raise UserError(
            "params.yaml: launch.precision = 'fp16' does not work with strategy = 'fsdp'; use auto, fp32 or bf16"
        )
    if settings.precision == "fp16" and not gpus:  # Accelerate would train in fp32 without a word
        raise UserError("params.yaml: launch.precision = 'fp16' needs a GPU; use auto, fp32 or bf16")
    if settings.precision == "bf16" and gpus and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("params.yaml: launch.precision = 'bf16', which this GPU cannot compute; use auto or fp32")
    if settings.num_machines > 1 and not is_worker() and RENDEZVOUS not in os.environ:
        raise UserError(
            f"params.yaml: launch.num_machines = {settings.num_machines}: set {RENDEZVOUS} to HOST:PORT of one of the machines,"
            " the same on all of them, and start `gpt pretrain` on each"
        )


def join_processes(settings: Launch) -> "PartialState":
    """Return the process group of this run, once all processes are there."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(seconds=settings.timeout_seconds))


def start_accelerator(settings: Launch) -> tuple["Accelerator", Choice]:
    """Return Accelerate's handle on this process and the precision that all processes train in.

    Raises `UserError` if a launcher has started another number of processes than `launch` asks for.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    state = join_processes(settings)
    asked = settings.num_processes * settings.num_machines
    if state.num_processes != asked:
        raise UserError(
            f"params.yaml: launch asks for {asked} processes, but {state.num_processes} run; start `gpt pretrain`"
            " itself (it starts them), or make the launcher's numbers the same"
        )
    precision = choose_precision(settings, state)
    # The buffers are positions, the same everywhere; gradients need not lie in memory twice.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    mixed = "no" if precision.value == "fp32" else precision.value
    on_cpu = not torch.cuda.is_available()
    return Accelerator(mixed_precision=mixed, cpu=on_cpu, kwargs_handlers=[ddp]), precision


def choose_precision(settings: Launch, state: "PartialState") -> Choice:
    """Return fp32, bf16 or fp16 for the passes, the same in all processes; for `auto`, measure (less than 0.3 s)."""
    if settings.precision != "auto":
        return Choice(settings.precision, "as params.yaml says")
    ratio = largest_of_processes(state, bf16_time_ratio(state.device or torch.device("cpu")))
    reason = "no bf16 here" if math.isinf(ratio) else f"bf16 takes {ratio:.2g} times as long as fp32"
    return Choice("bf16" if prefer_bf16(ratio) else "fp32", reason)


def prefer_bf16(ratio: float) -> bool:
    """Whether `auto` takes bf16 for a `bf16_time_ratio`."""
    # bf16 gives digits away, so it must be worth it; and a decision at the edge would not be the same the next time.
    return ratio < 0.8
