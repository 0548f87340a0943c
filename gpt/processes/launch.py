"""Where training runs: which processes, which device, which precision. Never what it computes."""

import ctypes
import math
import os
import platform
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from gpt.errors import UserError
from gpt.params.project import Launch

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


def bf16_time_ratio(device: torch.device) -> float:
    """Return the time of a feed-forward's passes in bf16 over the time in fp32; infinite if the GPU would only emulate it.

    Weights are fp32 in both, as in training.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return math.inf
    # A CPU that emulates bf16 shows it on a few rows already; on many it would take seconds.
    sizes = ((32, 192), (512, 384)) if device.type == "cpu" else ((4096, 1024),)
    ratio = math.inf
    for rows, width in sizes:
        bf16, fp32 = (_feed_forward_seconds(device, rows, width, dtype) for dtype in (torch.bfloat16, None))
        ratio = bf16 / fp32
        if ratio > 3:
            break
    return ratio


def _feed_forward_seconds(device: torch.device, rows: int, width: int, autocast: torch.dtype | None) -> float:
    """Return the seconds of a forward and backward pass of `rows` tokens, the faster of two after a first."""
    x, expand, project = (
        torch.full(shape, 0.01, device=device, requires_grad=True)
        for shape in ((rows, width), (4 * width, width), (width, 4 * width))
    )
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            y = F.linear(F.gelu(F.linear(x, expand)), project)
        torch.autograd.grad(y.float().sum(), (x, expand, project))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def largest_of_processes(state: "Accelerator | PartialState", value: float) -> float:
    """Return the largest of all processes' values. They wait for each other, and for the device."""
    if state.num_processes == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=state.device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor.item()


def is_same_everywhere(state: "Accelerator | PartialState", value: float) -> bool:
    """Whether all processes have the same value; all are told the same."""
    return largest_of_processes(state, value) == -largest_of_processes(state, -value)


def add_up_over_processes(state: "Accelerator | PartialState", value: torch.Tensor) -> None:
    """Make `value` the sum of all processes' values, on the device."""
    if state.num_processes > 1:
        torch.distributed.all_reduce(value)


def keep_freed_memory() -> None:
    """Let the C library keep what it frees instead of giving it back to the system; glibc on Linux only.

    It returns every large tensor at once and gets it back page by page: 90,000 page faults and a tenth of the time of a
    step of 124 million parameters. Memory that was used once stays with the process.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of mallopt(3), from malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 2**20)


def describe_hardware() -> str:
    """Return the processor, or the GPUs, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    names = [line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.processor() or platform.machine()}"


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
