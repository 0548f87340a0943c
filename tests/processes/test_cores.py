import logging
import subprocess
import sys
import time

import pytest
import torch

from gpt.processes import cores
from gpt.processes.cores import CoreWatch, CpuTimes, cores_of_others, read_cpu_times, threads_gain, threads_wait


@pytest.mark.parametrize(
    ("others", "threads", "number", "helps"),
    [
        (0.3, 2, 2, None),  # a moment of something
        (0.9, 2, 2, "OMP_NUM_THREADS=1 "),
        (2.0, 2, 2, "OMP_NUM_THREADS=1 "),
        (2.0, 1, 2, None),  # one thread waits for nobody
        (3.0, 8, 16, None),  # there is room for all
        (5.2, 16, 16, "OMP_NUM_THREADS=10 "),
        (0.0, 4, 2, "OMP_NUM_THREADS=2 "),  # more threads than cores
    ],
)
def test_threads_that_wait_for_each_other_are_named_with_what_helps(
    others: float, threads: int, number: int, helps: str | None
) -> None:
    said = threads_wait(others, threads, number)
    assert (said is None) if helps is None else (said is not None and helps in said)


def test_what_this_process_computes_is_not_the_work_of_others() -> None:
    before, after = CpuTimes(wall=10.0, busy=100.0, own=50.0), CpuTimes(wall=20.0, busy=118.0, own=58.0)
    assert cores_of_others(before, after) == pytest.approx(1.0)
    assert cores_of_others(before, after._replace(own=80.0)) == 0.0, "clocks of different resolution"
    assert cores_of_others(before, before) == 0.0


def test_another_process_that_computes_is_seen() -> None:
    before = read_cpu_times()
    busy = "import time; begun = time.process_time()\nwhile time.process_time() - begun < 1: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    after = read_cpu_times()
    assert cores_of_others(before, after) * (after.wall - before.wall) > 0.8


@pytest.mark.parametrize(("busy", "warnings"), [(20.0, 1), (0.0, 0)])
def test_training_warns_once_of_cores_that_others_keep_busy(
    busy: float, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`busy`: seconds of two cores in ten."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    now = time.monotonic()
    monkeypatch.setattr(
        cores, "read_cpu_times", iter([CpuTimes(now - 10 * n, -n * busy, 0) for n in (4, 3, 2, 1)]).__next__
    )
    with caplog.at_level(logging.WARNING):
        watch = CoreWatch()
        for _ in range(3):
            watch.look()
    assert caplog.text.count("OMP_NUM_THREADS=1") == warnings


def test_a_look_back_over_a_moment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = CoreWatch()
    monkeypatch.setattr(cores, "read_cpu_times", lambda: pytest.fail("too soon"))
    watch.look()


def test_measuring_threads_leaves_their_number_as_it_was() -> None:
    before = torch.get_num_threads()
    assert threads_gain() > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("variable", "expected"), [(None, 2), ("3", 3)])
def test_torch_has_no_more_threads_than_a_control_group_gives_time_unless_one_says_so(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: int
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", variable) if variable else monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        cores.bound_threads()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
