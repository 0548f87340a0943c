"""What processes tell each other and decide together; with one process, at no cost."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState


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
