"""This machine: its processors and how fast they compute, its memory. Measurements here decide no result."""

import ctypes
import math
import os
import platform
import sys
import time
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F

# Of /proc/cpuinfo, on x86 and on ARM.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx10_2", "bf16"}

_ROUNDS = 5


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
        bf16 = fp32 = math.inf
        for _ in range(_ROUNDS):  # in turns: other work then slows both
            bf16 = min(bf16, _feed_forward_seconds(device, rows, width, torch.bfloat16))
            fp32 = min(fp32, _feed_forward_seconds(device, rows, width, None))
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


def is_native(precision: str) -> bool | None:
    """Whether this machine computes products in a precision (fp32, tf32, bf16, fp16) itself; None if that cannot be told.

    Decided by what the hardware says of itself. What is not native is emulated, many times slower, or not computed at all.
    """
    if precision == "fp32":
        return True
    if torch.cuda.is_available():
        if precision == "tf32":
            return torch.cuda.get_device_capability() >= (8, 0)
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision != "bf16":
        return precision == "tf32"  # a CPU computes fp32 instead; fp16 is not computed
    flags = {
        flag for line in _cpu_info() if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()
    }
    return bool(flags & _BF16_FLAGS) if flags else None


def other_work() -> float:
    """Return the share of this machine's cores that other processes keep busy now; takes a quarter of a second."""
    return psutil.cpu_percent(interval=0.25) / 100


def threads_wait(busy: float) -> str | None:
    """Return what is wrong, in words, if threads would wait for each other on cores of which a share is `busy`, else None.

    Threads of one product wait for the slowest: two on two busy cores were seen to take ten times as long as one.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    if torch.cuda.is_available() or threads == 1 or busy * cores + threads <= cores + 0.5:
        return None
    fewer = max(1, round(cores * (1 - busy)))
    return (
        f"other processes keep {busy:.0%} of {cores} cores busy; {threads} threads that wait for each other there can be ten times"
        f" slower than fewer: try OMP_NUM_THREADS={fewer}"
    )


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
