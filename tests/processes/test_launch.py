import json
import platform
import subprocess
import sys

import pytest
import torch

from gpt.params.launch import Launch
from gpt.params.project import load_params
from tests.conftest import ROOT

CPU = torch.device("cpu")
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


def launch(**change: object) -> Launch:
    return load_params(ROOT / "params.yaml").launch.model_copy(update=change)


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
