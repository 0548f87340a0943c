"""This machine: its processors and how fast they compute, its memory. Measurements here decide no result."""

import ctypes
import math
import os
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from gpt.limits import usable_cores

# Of torch.cpu.get_capabilities(): instructions that multiply bf16 numbers, on x86 and on ARM.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")

_ROUNDS = 5


def is_native(precision: str) -> bool:
    """Whether this machine computes products in a precision (fp32, tf32, bf16, fp16) itself.

    What the hardware says of itself, the same at every hour. What is not native is emulated, many times slower, or not computed.
    """
    if precision == "fp32":
        return True
    if torch.cuda.is_available():
        if precision == "tf32":
            return torch.cuda.is_tf32_supported()
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16" and any(torch.cpu.get_capabilities().get(name) for name in _CPU_BF16)


def time_ratio(precision: str, device: torch.device) -> float:
    """Return the time of a feed-forward's passes in a precision over their time in fp32; weights are fp32 in both, as in training.

    The best of some rounds in which both take turns: other work on the machine slows single passes, by factors of 10 to 100.
    """
    # A CPU that emulates bf16 shows it on a few rows already; on many it would take seconds.
    sizes = ((32, 192), (512, 384)) if device.type == "cpu" else ((4096, 1024),)
    ratio = math.inf
    for rows, width in sizes:
        other = fp32 = math.inf
        for _ in range(_ROUNDS):
            other = min(other, _feed_forward_seconds(device, rows, width, precision))
            fp32 = min(fp32, _feed_forward_seconds(device, rows, width, "fp32"))
        ratio = other / fp32
        if ratio > 3:
            break
    return ratio


def _feed_forward_seconds(device: torch.device, rows: int, width: int, precision: str) -> float:
    """Return the seconds of a forward and backward pass of `rows` tokens, the faster of two after a first."""
    x, expand, project = (
        torch.full(shape, 0.01, device=device, requires_grad=True)
        for shape in ((rows, width), (4 * width, width), (width, 4 * width))
    )
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    seconds, before = [], torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    for _ in range(3):
        begun = time.perf_counter()
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            y = F.linear(F.gelu(F.linear(x, expand)), project)
        torch.autograd.grad(y.float().sum(), (x, expand, project))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    if device.type == "cuda":
        torch.set_float32_matmul_precision(before)
    return min(seconds[1:])


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
    """Return the processor and how many threads compute on it, which decides last digits, or the GPUs, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    names = [line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    there, usable = os.cpu_count() or 1, usable_cores()
    return f"{there if usable == there else f'{usable} of {there}'} x {name}, threads: {torch.get_num_threads()}"


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
