"""`gpt doctor`: what this machine has for training, and what to do about what is missing."""

import argparse
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpt.commands.arguments import Commands, add_command
from gpt.errors import UserError

if TYPE_CHECKING:
    import torch

Finding = tuple[Literal["ok", "note", "missing"], str, str]
_MARKS = {"ok": "✓", "note": "·", "missing": "✗"}


def add_commands(commands: Commands) -> None:
    """Add the command of this file to `gpt`."""
    add_command(commands, doctor)


def doctor(options: argparse.Namespace) -> int:
    """say what this machine has and what is missing"""
    return examine()


def examine() -> int:
    """Print the findings; return 0 if nothing is missing, else 2."""
    findings = [*_python(), *_machine(), *_torch(), *_tools(), *_servers(), *_project()]
    width = max(len(subject) for _, subject, _ in findings)
    for kind, subject, text in findings:
        print(f"{_MARKS[kind]} {subject:<{width}}  {text}")
    missing = sum(kind == "missing" for kind, _, _ in findings)
    print(f"{missing} thing(s) to put right, marked ✗" if missing else "Everything that is needed is here.")
    return 2 if missing else 0


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    yield ("ok" if sys.version_info >= (3, 11) else "missing"), "Python", f"{version} ({sys.prefix})"
    lock = Path("requirements.lock")
    if not lock.exists():
        yield "note", "packages", "no requirements.lock in this folder to compare with"
        return
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    wrong = [f"{name} {_installed(name) or 'absent'} (lock: {pin})" for name, pin in pins if _installed(name) != pin]
    if wrong:
        yield (
            "missing",
            "packages",
            f"{len(wrong)} differ from requirements.lock: {', '.join(wrong[:5])}; pip install -r requirements.lock",
        )
    else:
        yield "ok", "packages", f"all {len(pins)} as in requirements.lock"


def _installed(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _machine() -> Iterator[Finding]:
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


def _torch() -> Iterator[Finding]:
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


def _tools() -> Iterator[Finding]:
    git = shutil.which("git")
    yield ("ok" if git else "missing"), "git", git or "not found; install it: versions of models name their commit"
    inside = Path(".dvc").is_dir()
    yield (
        ("ok" if inside else "missing"),
        "DVC",
        "repository here" if inside else "no .dvc here; run this in the project's folder",
    )


def _servers() -> Iterator[Finding]:
    from gpt.tracking.store import client, tracking_uri

    try:
        client()
        yield (
            "ok",
            "MLflow",
            f"{tracking_uri()}" + ("" if "MLFLOW_TRACKING_URI" in os.environ else " (no server needed)"),
        )
    except UserError as error:
        yield "missing", "MLflow", str(error)
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        yield "ok", "Prefect", "PREFECT_API_URL is not set: a flow starts its own server while it runs"
        return
    import httpx

    try:
        httpx.get(f"{address.rstrip('/')}/health", timeout=5).raise_for_status()
        yield "ok", "Prefect", address
    except httpx.HTTPError as error:
        yield "missing", "Prefect", f"{address}: {error}; start it, or unset PREFECT_API_URL"


def _project() -> Iterator[Finding]:
    from gpt.params.project import load_params

    try:
        load_params()
        yield "ok", "params.yaml", "valid"
    except UserError as error:
        for line in str(error).splitlines():
            yield "missing", "params.yaml", line.removeprefix("params.yaml: ")
