"""Cores, memory, open files, temporary files, GPUs, and how each precision is computed here."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt.commands.checks.finding import Finding
from gpt.limits import cpu_quota, open_files, pinned_cores, usable_cores, usable_memory
from gpt.memory import in_units

if TYPE_CHECKING:
    import torch

_DEFAULT_RUN_BYTES = 2 * 2**30
_FEW_FILES = 256
_NCCL_BYTES = 512 * 2**20


def machine() -> Iterator[Finding]:
    yield "ok", "processor", _cores()
    yield _memory()
    yield from _open_files()
    yield _temporary_folder()


def _cores() -> str:
    there, cores, pinned, quota = os.cpu_count() or 1, usable_cores(), len(pinned_cores()), cpu_quota()
    why = [f"pinned to {pinned}"] if pinned < there else []
    why += [f"a control group allows the time of {quota:g}"] if quota is not None and quota < pinned else []
    return f"{cores} of {there} cores may be used: {', '.join(why)}" if why else f"{there} cores"


def _memory() -> Finding:
    import psutil

    memory, there = usable_memory(), psutil.virtual_memory().total
    low = memory.available < _DEFAULT_RUN_BYTES
    said = f"{in_units(memory.available)} of {in_units(memory.total)} free"
    if memory.total < there:
        said += f"; a control group allows no more of the machine's {in_units(there)}"
    for name, kind in (("-v", resource.RLIMIT_AS), ("-d", resource.RLIMIT_DATA)):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            low |= limit < _DEFAULT_RUN_BYTES
            said += f"; `ulimit {name}` allows a process {in_units(limit)}"
    return ("missing" if low else "ok"), "memory", said + ("; the default run takes 2 GiB" if low else "")


def _open_files() -> Iterator[Finding]:
    allowed = open_files()
    if allowed < _FEW_FILES:
        yield (
            "note",
            "open files",
            f"at most {allowed}: many workers at a time may need more; `ulimit -n 4096` raises it",
        )


def _temporary_folder() -> Finding:
    """Where temporary files go: found out as Python itself does, by writing one and removing it."""
    named = next(((name, os.environ[name]) for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), None)
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return "missing", "temporary", "no folder for temporary files can be written; set TMPDIR to one that can"
    if named and Path(folder) != Path(named[1]).absolute():
        return "note", "temporary", f"{named[0]} = {named[1]} cannot be written; {folder} is used"
    return "ok", "temporary", folder


def shared_memory(processes: int, folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Whether processes on several GPUs can pass data to each other through shared memory, of which containers give little."""
    if processes > 1 and folder.is_dir() and (size := shutil.disk_usage(folder).total) < _NCCL_BYTES:
        advice = "`docker run --shm-size 1g`, or --ipc=host, gives it"
        yield (
            "missing",
            "shared memory",
            f"{folder} has {in_units(size)}: NCCL between {processes} GPUs needs more; {advice}",
        )


def accelerators() -> Iterator[Finding]:
    import torch

    from gpt.processes.cores import bound_threads
    from gpt.training.steps.compilation import missing_for_compile

    bound_threads()  # as training does
    yield "ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    for device in gpus:
        properties = torch.cuda.get_device_properties(device)
        yield "ok", f"GPU {device.index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not gpus:
        yield "note", "GPU", "none: training runs on the processor"
    yield from shared_memory(len(gpus))
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

    from gpt.processes.cores import cores_of_others, read_cpu_times, threads_gain, threads_wait

    threads, cores, before = torch.get_num_threads(), usable_cores(), read_cpu_times()
    gain = threads_gain() if threads > 1 else 1.0
    waiting = threads_wait(cores_of_others(before, read_cpu_times()), threads, cores)
    if waiting is None and gain < 1:
        waiting = f"{threads} of them take {1 / gain:.2g} times as long as one for small passes; try OMP_NUM_THREADS=1"
    speed = f", {gain:.2g} times as fast as one in small passes" if 1 < gain <= threads else ""
    yield ("note", "threads", waiting) if waiting else ("ok", "threads", f"{threads} on {cores} cores{speed}")
