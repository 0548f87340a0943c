"""Cores, memory, disk, GPUs, and how each precision is computed here."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt.commands.checks.finding import Finding

if TYPE_CHECKING:
    import torch


def machine() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    yield "ok", "processor", f"{os.cpu_count()} cores"
    low = memory.available < 2 * 2**30
    advice = "; the default run takes 2 GiB: close something" if low else ""
    yield (
        ("missing" if low else "ok"),
        "memory",
        f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free{advice}",
    )
    disk = shutil.disk_usage(Path.cwd())
    low = disk.free < 2 * 2**30
    advice = "; checkpoints and the DVC cache need room: free some" if low else ""
    yield ("missing" if low else "ok"), "disk", f"{disk.free / 2**30:.1f} GiB free here{advice}"


def accelerators() -> Iterator[Finding]:
    import torch

    from gpt.training.compilation import missing_for_compile

    yield "ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    for device in gpus:
        properties = torch.cuda.get_device_properties(device)
        yield "ok", f"GPU {device.index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not gpus:
        yield "note", "GPU", "none: training runs on the processor"
    device = gpus[0] if gpus else torch.device("cpu")
    yield from _precisions(device)
    if not gpus:
        yield from _threads()
    lacking = missing_for_compile()
    yield (
        "note",
        "compiler",
        f"{lacking}: launch.compile must be false or auto" if lacking else "found: launch.compile works",
    )


def _precisions(device: "torch.device") -> Iterator[Finding]:
    """How each `train.precision` is computed here: by what the hardware says, with measured times that decide nothing."""
    from gpt.processes.machine import is_native, time_ratio
    from gpt.processes.peaks import DTYPES, device_peak

    for precision in DTYPES:
        if not is_native(precision) and (precision != "bf16" or device.type == "cuda"):
            yield "note", precision, "not computed here: training refuses it"
            continue
        said = "native" if is_native(precision) else "only emulated"
        if precision != "fp32":
            said += f", {time_ratio(precision, device):.2g} times as long as fp32"
        peak = device_peak(device, precision)
        said += f", at most {peak / 1e12:.3g} TFLOP/s" if peak else ", peak not known: MFU is n/a"
        yield ("ok" if is_native(precision) else "note"), precision, said


def _threads() -> Iterator[Finding]:
    """Whether threads help or wait for each other, now."""
    import torch

    from gpt.processes.cores import cores_of_others, read_cpu_times, threads_gain, threads_wait, usable_cores

    threads, cores, before = torch.get_num_threads(), usable_cores(), read_cpu_times()
    gain = threads_gain() if threads > 1 else 1.0
    waiting = threads_wait(cores_of_others(before, read_cpu_times()), threads, cores)
    if waiting is None and gain < 1:
        waiting = f"{threads} of them take {1 / gain:.2g} times as long as one for small passes; try OMP_NUM_THREADS=1"
    speed = f", {gain:.2g} times as fast as one in small passes" if 1 < gain <= threads else ""
    yield ("note", "threads", waiting) if waiting else ("ok", "threads", f"{threads} on {cores} cores{speed}")
