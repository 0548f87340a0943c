"""Out of memory, for real, is told as that: whichever library asked for what was not there."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt import paths
from gpt.errors import UserError
from gpt.memory import describe_kill, describe_want, in_units, is_out_of_memory, told_if_out_of_memory
from tests import ROOT

# One GiB more than the interpreter and its libraries take.
LIMITED = """
import mmap, os, resource, subprocess, sys
import numpy as np
import torch
from gpt import paths
from gpt.errors import UserError
from gpt.memory import told_if_out_of_memory

size = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30,) * 2)
try:
    with told_if_out_of_memory("lower it"):
        CODE
except UserError as error:
    sys.exit(f"told: {error}")
"""


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("torch.ones(2**33)", " (32.0 GiB more were asked for)"),
        ("torch.nn.Linear(10**5, 10**5)", " (37.3 GiB more were asked for)"),
        ("np.ones(2**33)", " (64.0 GiB more were asked for)"),
        ("np.zeros(2**40, np.uint8)", " (1.00 TiB more were asked for)"),
        ("bytearray(2**33)", ""),
        ("mmap.mmap(-1, 2**33)", ""),
        ("os.read(0, 2**33)", ""),
    ],
)
def test_whoever_wants_memory_that_is_not_there_the_advice_is_given(code: str, asked: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.replace("CODE", code)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("told: out of memory, of which this process may use ")
    assert done.stderr.endswith(f"{asked}; lower it\n")


# Word for word from torch 2.13 and CUDA 12, by kind; no GPU is needed to read them.
GPU = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 15.19 MiB is free."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError(GPU), "out of GPU memory (20.00 MiB more were asked for)"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously"), "out of GPU memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of GPU memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"), "out of GPU memory"),
        (RuntimeError("std::bad_alloc"), "out of memory, of which"),
        (RuntimeError("data. DefaultCPUAllocator: not enough memory: you tried to allocate 2048 bytes."), "(2.0 KiB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory, of which"),
        (MemoryError(), "out of memory, of which"),
        (ImportError("/lib/a.so: failed to map segment from shared object"), "out of memory, of which"),
    ],
)  # fmt: skip
def test_each_ways_of_saying_it_is_known(error: Exception, told: str) -> None:
    assert is_out_of_memory(error)
    assert told in describe_want(error)
    with pytest.raises(UserError) as raised, told_if_out_of_memory("advice"):
        raise error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: device-side assert triggered"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("out of memory"),
        ImportError("/tmp/a.so: failed to map segment from shared object: Operation not permitted"),
        ImportError("No module named 'a'"),
        KeyError("memory"),
    ],
)
def test_another_error_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, told_if_out_of_memory("advice"):
        raise error
    assert raised.value is error


def test_a_kill_is_told_by_what_is_known_of_it() -> None:
    assert describe_kill(-9, by_kernel=True) == "was killed by the kernel, which was out of memory"
    assert "as the kernel does when memory is short" in describe_kill(-9)
    assert describe_kill(-11) == describe_kill(-11, by_kernel=True) == "ended with exit code -11"


def test_sizes_are_told_in_the_unit_that_reads_best() -> None:
    sizes = (0, 1023, 1024, 1.5 * 2**30, 800 * 2**30, 3 * 2**40, 5000 * 2**40)
    assert [*map(in_units, sizes)] == ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 GiB", "800 GiB", "3.0 TiB", "5000 TiB"]


def test_want_of_memory_is_no_damage_of_what_was_being_read(
    trained_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that a GPU has no room for would be called damaged, and a page be dropped that was only not read."""
    import pyarrow as pa

    from gpt.corpus.reading import pages
    from gpt.model import storage

    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    monkeypatch.setattr(storage, "load_file", fail)
    with pytest.raises(RuntimeError, match="can't allocate"):
        storage.load_model(trained_project / paths.BASE_MODEL)
    monkeypatch.setattr(pages, "_extractor", lambda: (_ for _ in ()).throw(pa.ArrowMemoryError("malloc failed")))
    with pytest.raises(MemoryError):
        pages.visible_text("<p>")
