import json
import math
import platform
import subprocess
import sys
import time

import pytest
import torch
from accelerate import PartialState

from gpt.errors import UserError
from gpt.params.launch import Launch
from gpt.params.project import load_params
from gpt.processes.launch import check_launch, choose_precision, prefer_bf16
from gpt.processes.machine import bf16_time_ratio
from tests.conftest import ROOT

CPU = torch.device("cpu")
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


def launch(**change: object) -> Launch:
    return load_params(ROOT / "params.yaml").launch.model_copy(update=change)


@on_cpu
def test_fp16_without_a_gpu_is_refused_instead_of_training_in_fp32() -> None:
    with pytest.raises(UserError, match=r"launch\.precision = 'fp16' needs a GPU; use auto, fp32 or bf16"):
        check_launch(launch(precision="fp16"))


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
@on_cpu
def test_other_precisions_run_anywhere(precision: str) -> None:
    check_launch(launch(precision=precision))


@pytest.mark.parametrize(("ratio", "bf16"), [(0.2, True), (0.79, True), (0.95, False), (1.0, False), (math.inf, False)])
def test_auto_takes_bf16_only_where_it_is_clearly_faster(ratio: float, bf16: bool) -> None:
    assert prefer_bf16(ratio) is bf16


def test_a_precision_that_is_asked_for_is_taken_unmeasured() -> None:
    choice = choose_precision(launch(precision="bf16"), PartialState(cpu=True))
    assert str(choice) == "bf16 (as params.yaml says)"


@on_cpu
def test_auto_says_what_it_measured() -> None:
    choice = choose_precision(launch(precision="auto"), PartialState(cpu=True))
    assert choice.value in ("fp32", "bf16")
    ratio = float(choice.reason.removeprefix("bf16 takes ").split()[0])
    assert (choice.value == "bf16") is (ratio < 0.8)


def test_the_measurement_is_short() -> None:
    bf16_time_ratio(CPU)  # the first one also loads the kernels
    begun = time.process_time()
    assert bf16_time_ratio(CPU) > 0
    assert time.process_time() - begun < 0.3 * torch.get_num_threads()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back at once")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    code = """
import json, resource, torch
from gpt.processes.launch import keep_freed_memory
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
