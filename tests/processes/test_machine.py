import os

import pytest
import torch

from gpt.processes import machine
from gpt.processes.machine import bf16_time_ratio, is_native, threads_wait

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@on_cpu
@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("flags\t\t: fpu sse2 avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu sse2 amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu sse2 avx2 avx512f", False),
        ("processor\t: 0", None),
    ],
)
def test_the_processor_says_whether_it_computes_bf16_itself(
    flags: str, native: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_cpu_info", lambda: ["processor\t: 0", flags])
    assert is_native("bf16") is native
    assert is_native("fp32") is True
    assert is_native("fp16") is False


def test_the_ratio_of_bf16_to_fp32_is_measured() -> None:
    assert 0 < bf16_time_ratio(torch.device("cpu")) < 10_000


@on_cpu
def test_threads_that_wait_for_each_other_are_named_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert threads_wait(0.1) is None
    said = threads_wait(0.9)
    assert said is not None and "OMP_NUM_THREADS=1" in said
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert threads_wait(1.0) is None, "one thread waits for nobody"
