"""Processes that wait for the work of one of them keep in touch: however long it takes, none is taken for lost."""

import signal
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from gpt.errors import Interrupted
from gpt.processes.agreement import work_together
from gpt.processes.signals import Stop

PROCESSES = 2
TIMEOUT_SECONDS = 2  # of every collective
HEARTBEATS = 5  # of a second each: longer than that


def join_group(rank: int, folder: Path) -> Any:
    """Join a group of processes that meet in `folder` and wait for each other but shortly; return what Accelerate says of it."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=TIMEOUT_SECONDS),
    )
    return SimpleNamespace(num_processes=PROCESSES, device=torch.device("cpu"))


def run(rank: int, folder: Path, case: str) -> None:
    state = join_group(rank, folder)
    stop, beats = Stop(), 0

    def work(seconds: float) -> bool:
        nonlocal beats
        if rank:
            return True
        beats += 1
        if case == "stopped" and beats == 2:
            stop.signum = signal.SIGTERM
        threading.Event().wait(seconds)
        return beats == HEARTBEATS

    try:
        work_together(state, work, stop)
        (folder / f"{rank}").write_text(f"done after {beats}")
    except Interrupted as error:
        (folder / f"{rank}").write_text(str(error))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("long", [f"done after {HEARTBEATS}", "done after 0"]),
        ("stopped", ["stopped by SIGTERM before the first step; run it again to go on"] * 2),
    ],
)
def test_work_longer_than_the_timeout_ends_and_a_signal_to_one_stops_all(
    tmp_path: Path, case: str, expected: list[str]
) -> None:
    spawn(run, (tmp_path, case), nprocs=PROCESSES)
    assert [(tmp_path / f"{rank}").read_text() for rank in range(PROCESSES)] == expected


def test_one_process_waits_for_itself_alone() -> None:
    left = [False, False, True]
    state: Any = SimpleNamespace(num_processes=1)
    work_together(state, lambda _: left.pop(0), Stop())
    assert not left
