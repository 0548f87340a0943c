"""What processes tell each other and decide together; with one process, at no cost."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from gpt.processes.signals import Stop

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

_HEARTBEAT_SECONDS = 1.0


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


def work_together(state: "Accelerator | PartialState", is_done: Callable[[float], bool], stop: Stop) -> None:
    """Return when the work of all processes is done, however long it takes: they keep in touch, so that none is taken for lost.

    All must call this. `is_done(seconds)` waits for this process's own work so long at most. Raises `Interrupted` in all of them if
    one was sent a signal.
    """
    while True:
        is_working = not is_done(_HEARTBEAT_SECONDS)
        if signum := int(largest_of_processes(state, stop.signum)):
            raise stop.before_the_first_step(signum)
        if not largest_of_processes(state, is_working):
            return


def add_up_over_processes(state: "Accelerator | PartialState", value: torch.Tensor) -> None:
    """Make `value` the sum of all processes' values, on the device."""
    if state.num_processes > 1:
        torch.distributed.all_reduce(value)
