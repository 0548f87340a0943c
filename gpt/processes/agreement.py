"""What processes tell each other and decide together; with one process, at no cost."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from gpt.processes.signals import Stop

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

_HEARTBEAT_SECONDS = 1.0

T = TypeVar("T")


class Share:
    """Of work that several processes do, this one's part, and what all of them have found; without a `state`, all of it.

    What brings parts together is called by all processes, in the same order.
    """

    def __init__(self, state: "Accelerator | PartialState | None" = None) -> None:
        self._state = state
        self.part = (0, 1) if state is None else (state.process_index, state.num_processes)
        "(rank, ranks)"

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.part[0] == 0

    def add_up(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of all processes' arrays, to each of them."""
        if self._state is None:
            return values
        sums = torch.from_numpy(values).to(self._state.device, copy=True)
        add_up_over_processes(self._state, sums)
        return sums.cpu().numpy()

    def gather(self, value: T) -> list[T]:
        """Return each process's value, by rank, to each of them."""
        if self._state is None or self._state.num_processes == 1:
            return [value]
        values: list[T | None] = [None] * self._state.num_processes
        torch.distributed.all_gather_object(values, value)
        return [each for each in values if each is not None]


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
            raise stop.with_nothing_to_save(signum)
        if not largest_of_processes(state, is_working):
            return


def add_up_over_processes(state: "Accelerator | PartialState", value: torch.Tensor) -> None:
    """Make `value` the sum of all processes' values, on the device."""
    if state.num_processes > 1:
        torch.distributed.all_reduce(value)
