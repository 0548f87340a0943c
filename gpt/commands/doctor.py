"""`gpt doctor`: what this machine has for training, and what to do about what is missing."""

import argparse
import math
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from gpt.commands.arguments import Commands, add_command
from gpt.errors import UserError

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

    from gpt.processes.machine import bf16_time_ratio, is_native, other_work, threads_wait
    from gpt.processes.peaks import DTYPES, device_peak
    from gpt.training.compilation import missing_for_compile

    yield "ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    for device in gpus:
        properties = torch.cuda.get_device_properties(device)
        yield "ok", f"GPU {device.index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not gpus:
        yield "note", "GPU", "none: training runs on the processor"
    device = gpus[0] if gpus else torch.device("cpu")
    native = [precision for precision in DTYPES if is_native(precision) and (gpus or precision != "tf32")]
    yield "ok", "precision", f"{', '.join(native)} computed natively: train.precision in params.yaml chooses"
    if gpus or is_native("bf16") is not None:
        ratio = bf16_time_ratio(device)
        kind = "native" if is_native("bf16") else "emulated"
        yield (
            "note",
            "bf16",
            "not computed here" if math.isinf(ratio) else f"{kind}: takes {ratio:.2g} times as long as fp32",
        )
    for precision in native:
        peak = device_peak(device, precision)
        what = (
            f"{peak / 1e12:.3g} TFLOP/s in {precision}"
            if peak
            else f"in {precision} not known for this device: MFU is n/a"
        )
        yield "note", "peak", what
    if waiting := threads_wait(other_work()):
        yield "note", "threads", waiting
    lacking = missing_for_compile()
    yield (
        "note",
        "compiler",
        f"{lacking}: launch.compile must be false or auto" if lacking else "found: launch.compile works",
    )


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
