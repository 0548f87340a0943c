"""Threads and the cores that they share with other work. What is measured here is said to people and decides nothing.

Threads of one product wait for the slowest of them: two threads on two cores that others keep busy were seen to take ten times
as long as one. Threads are as many as OMP_NUM_THREADS says, else as many as cores that this process may use, however busy they are:
the last digits of a result depend on their number, and must not depend on the hour.
"""

import logging
import os
import statistics
import time
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F

from gpt.limits import pinned_cores, usable_cores

_WATCH_SECONDS = 5.0
"A look back over less would take a moment's disturbance for load."
_ROUNDS = 20

logger = logging.getLogger(__name__)


class CpuTimes(NamedTuple):
    """Seconds since some moment."""

    wall: float
    busy: float
    "Of all cores that this process may use, whoever kept them busy."
    own: float
    "Of this process, over its threads."


class CoreWatch:
    """Looks now and then at what other processes do to the cores, and warns once if this one's threads wait for them."""

    def __init__(self) -> None:
        self._since, self._has_warned = read_cpu_times(), False

    def look(self) -> None:
        """Warn if other processes have kept the cores busy since the last look; costs a file read, at most every five seconds."""
        if self._has_warned or time.monotonic() - self._since.wall < _WATCH_SECONDS:
            return
        now = read_cpu_times()
        if warning := threads_wait(cores_of_others(self._since, now), torch.get_num_threads(), usable_cores()):
            self._has_warned = True
            logger.warning("%s", warning)
        self._since = now


def bound_threads() -> None:
    """Let torch compute with no more threads than can do so all the time, unless OMP_NUM_THREADS says with how many.

    Torch looks at affinity by itself, but not at the share of time that a control group allows.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def read_cpu_times() -> CpuTimes:
    """Return the seconds that the usable cores and this process have computed so far."""
    every, usable = psutil.cpu_times(percpu=True), pinned_cores()
    times = [core for number, core in enumerate(every) if number in usable] or every
    # `steal` is what a virtual machine's host gave to others. What guests computed is in `user` already.
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    busy = sum(getattr(core, kind, 0.0) for core in times for kind in kinds)
    return CpuTimes(time.monotonic(), busy, time.process_time())


def cores_of_others(before: CpuTimes, after: CpuTimes) -> float:
    """Return how many cores other processes have kept busy on average between two readings."""
    seconds = after.wall - before.wall
    return max(0.0, (after.busy - before.busy) - (after.own - before.own)) / seconds if seconds > 0 else 0.0


def threads_wait(others: float, threads: int, cores: int) -> str | None:
    """Return what is wrong and what to do, in words, if `threads` wait for `cores` that `others` (cores) keep busy, else None."""
    if threads == 1 or others + threads <= cores + 0.5:
        return None
    return (
        f"other processes keep {others:.1f} of {cores} cores busy: {threads} threads wait for each other, which can take ten times"
        f" as long as fewer do; stop the other work, or set OMP_NUM_THREADS={max(1, int(cores - others))}"
        " (the last digits of a result depend on it)"
    )


def threads_gain() -> float:
    """Return how many times as fast as one all of torch's threads are in passes of a small model; takes about 0.3 s.

    The middle of some rounds in which both take turns, not the best: what others take from the threads is the question.
    """
    threads, x = torch.get_num_threads(), torch.full((256, 256), 0.01)
    one: list[float] = []
    several: list[float] = []
    try:
        for _ in range(_ROUNDS):
            for number, seconds in ((1, one), (threads, several)):
                torch.set_num_threads(number)
                _pass_seconds(x)  # wakes the threads up
                seconds.append(_pass_seconds(x))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(one) / statistics.median(several)


def _pass_seconds(x: torch.Tensor) -> float:
    begun = time.perf_counter()
    for _ in range(5):
        x = F.gelu(F.linear(x, x))
    return time.perf_counter() - begun
