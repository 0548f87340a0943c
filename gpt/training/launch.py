"""Where training runs: which processes, which device, which precision. Never what it computes."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import torch

from gpt.errors import UserError
from gpt.params import Launch

RENDEZVOUS = "GPT_RENDEZVOUS"


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
    if settings.strategy == "fsdp":
        raise UserError("params.yaml: launch.strategy = 'fsdp' is not supported yet; use ddp")
    if settings.precision == "bf16" and gpus and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("params.yaml: launch.precision = 'bf16', which this GPU cannot compute; use auto or fp32")
    if settings.num_machines > 1 and not is_worker() and RENDEZVOUS not in os.environ:
        raise UserError(
            f"params.yaml: launch.num_machines = {settings.num_machines}: set {RENDEZVOUS} to HOST:PORT of one of the machines,"
            " the same on all of them, and start `gpt pretrain` on each"
        )


def choose_precision(settings: Launch) -> str:
    """Return Accelerate's `mixed_precision`: bf16 where a GPU computes it natively, else fp32 ("no")."""
    if settings.precision == "auto":
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if fast else "no"  # without hardware support, bf16 on a CPU is many times slower than fp32
    return "bf16" if settings.precision == "bf16" else "no"


def run_workers(settings: Launch) -> int:
    """Start `gpt pretrain` in every process through torchrun, pass signals on, and return the exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={settings.num_processes}"]
    if settings.num_machines > 1:
        command += [
            f"--nnodes={settings.num_machines}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={os.environ[RENDEZVOUS]}",
        ]
    else:
        command += ["--standalone"]
    threads = max(1, (os.cpu_count() or 1) // settings.num_processes)  # torchrun would give each process one
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    process = subprocess.Popen([*command, "-m", "gpt.cli", "pretrain"], env=environment)

    def pass_on(signum: int, _frame: FrameType | None) -> None:
        process.send_signal(signum)

    before = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return 128 - code if code < 0 else code


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
