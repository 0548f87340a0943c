import json
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from gpt.processes.machine import is_native, time_ratio
from tests import ROOT

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@on_cpu
@pytest.mark.parametrize(
    ("capability", "native"),
    [
        ("avx512_bf16", True),
        ("amx_bf16", True),
        ("bf16", True),
        ("sve_bf16", True),
        ("avx512_f", False),
        ("neon", False),
    ],
)
def test_the_processor_says_whether_it_computes_bf16_itself(
    capability: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False, capability: True})
    assert is_native("bf16") is native
    assert is_native("fp32")
    assert not is_native("fp16") and not is_native("tf32"), "they need a GPU"


@pytest.mark.parametrize(
    ("capability", "natives"), [((9, 0), ["fp32", "tf32", "bf16", "fp16"]), ((7, 5), ["fp32", "fp16"])]
)
def test_a_gpu_says_by_its_generation_what_it_computes(
    capability: tuple[int, int], natives: list[str], pretend_gpu: Callable[[int, int], None]
) -> None:
    pretend_gpu(*capability)
    assert [name for name in ("fp32", "tf32", "bf16", "fp16") if is_native(name)] == natives


def test_the_time_of_bf16_is_measured_against_fp32s() -> None:
    assert 0 < time_ratio("bf16", torch.device("cpu")) < 10_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back at once")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    code = """
import json, resource, torch
from gpt.processes.machine import keep_freed_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
keep_freed_memory()
faults()
print(json.dumps([first, faults()]))
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    before, after = json.loads(output)
    assert after < before / 10, (before, after)
