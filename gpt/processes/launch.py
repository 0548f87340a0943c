"""Where training runs: which processes, on which device. Never what it computes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from gpt.errors import Interrupted, UserError
from gpt.params.launch import Launch
from gpt.params.project import Params
from gpt.processes.agreement import Share
from gpt.processes.environment import check_environment, hide_from_accelerate
from gpt.processes.owner import tell_owner

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

RENDEZVOUS = "GPT_RENDEZVOUS"


def is_worker() -> bool:
    """Whether this process was started by torchrun or accelerate."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def needs_workers(settings: Launch) -> bool:
    """Whether `gpt pretrain` has to start worker processes to be what `launch` asks for."""
    return not is_worker() and settings.num_processes * settings.num_machines > 1


def check_launch(params: Params) -> None:
    """Raise `UserError` for what this machine would silently not do, or what the environment asks for in place of params.yaml."""
    settings = params.launch
    check_environment(params, on_gpu=torch.cuda.is_available())
    _check_gpus(settings)
    if settings.num_machines > 1 and not is_worker() and RENDEZVOUS not in os.environ:
        raise UserError(
            f"params.yaml: launch.num_machines = {settings.num_machines}: set {RENDEZVOUS} to HOST:PORT of one of the machines,"
            " the same on all of them, and start `gpt pretrain` on each"
        )


def of_this_machine(settings: Launch) -> Launch:
    """Return the processes of this machine alone, not started again when one dies; raise `UserError` for more than it has GPUs."""
    _check_gpus(settings)
    return settings.model_copy(update={"num_machines": 1, "max_restarts": 0})


def _check_gpus(settings: Launch) -> None:
    gpus = torch.cuda.device_count()
    if gpus and settings.num_processes > gpus:
        raise UserError(
            f"params.yaml: launch.num_processes = {settings.num_processes}, but this machine has {gpus} GPU(s); lower it"
        )


@contextmanager
def shared_processes(settings: Launch) -> Iterator[Share]:
    """Give this process's share of work that all do which a launcher has started; without a launcher, all of the work."""
    if not is_worker():
        yield Share()
        return
    with joined_processes(settings) as state:
        try:
            yield Share(state)
        except Interrupted as stopped:
            tell_owner(stopped)
            raise


@contextmanager
def joined_processes(settings: Launch) -> Iterator["PartialState"]:
    """Give the process group of this run, once all processes are there, and leave it at the end.

    An interpreter that ended inside the group could tear a thread of it out of C++, which aborts: all work done, and the exit code
    of a crash. After an error, maybe of one process alone, nobody leaves: it ends at once (`gpt.entry.leave`), and the launcher
    ends the others, which may wait for that one.
    """
    from accelerate import PartialState

    hide_from_accelerate()
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(seconds=settings.timeout_seconds))
    try:
        yield state
    except Interrupted:  # in all of them
        _leave_processes()
        raise
    _leave_processes()


def _leave_processes() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def start_accelerator(settings: Launch, mixed_precision: str) -> "Accelerator":
    """Return Accelerate's handle on this process, which has joined the others; `mixed_precision` is what it calls no, bf16 or fp16.

    Raises `UserError` if a launcher has started another number of processes than `launch` asks for.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState

    state = PartialState()
    asked = settings.num_processes * settings.num_machines
    if state.num_processes != asked:
        raise UserError(
            f"params.yaml: launch asks for {asked} processes, but {state.num_processes} run; start `gpt pretrain`"
            " itself (it starts them), or make the launcher's numbers the same"
        )
    # The buffers are positions, the same everywhere; gradients need not lie in memory twice.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(mixed_precision=mixed_precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[ddp])
