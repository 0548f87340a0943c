"""Training that wants more memory than it may have ends with what takes less, and goes on from its last checkpoint with it."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import ROOT

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="limits the memory of the processor")

_ROOM = 2**30  # bytes: an interpreter with its libraries takes a third of it
# A feed-forward of the whole batch takes 4 GiB.
LARGE: dict[str, object] = {"n_embd": 256, "block_size": 256}
BATCH = 4096


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (_ROOM, _ROOM))


def train(before: Callable[[], object] = limited) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gpt", "pretrain"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def told(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Check that it ended with exit code 2 and one error, which has these words."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    for word in ("params.yaml: lower launch.micro_batch_size (", "launch.activation_checkpointing", "bf16", *words):
        assert word in error
    assert "start again" not in done.stderr, "the same would happen again"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_micro_batch_that_is_too_large_is_named_and_no_start_is_repeated(
    make_project: Callable[..., Path], processes: int
) -> None:
    make_project(
        model=LARGE,
        train={"batch_size": BATCH},
        launch={"num_processes": processes, "micro_batch_size": BATCH // processes},
    )
    done = train()
    told(done, f"({BATCH // processes})", "error: out of memory, of which this process may use ", "more were asked for")


@pytest.mark.slow
def test_a_process_that_the_kernel_kills_for_want_of_memory_is_told_and_not_started_again(
    make_project: Callable[..., Path], memory_group: Callable[[int], Path]
) -> None:
    make_project(
        model=LARGE, train={"batch_size": BATCH}, launch={"num_processes": 2, "micro_batch_size": BATCH // 2}
    )  # three processes with torch take half of the memory, and a feed-forward more than the rest
    group = memory_group(2 * 2**30)
    done = train(lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
    told(done, "was killed by the kernel, which was out of memory", "lower launch.num_processes (2)")
