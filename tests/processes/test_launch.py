"""Training as other launchers start it: `accelerate launch` and torchrun, for real, in one process and in two."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from gpt import paths
from tests.training.test_trainer import ROOT, WEIGHTS, start, train_here

ONE: dict[str, object] = {"num_processes": 1, "micro_batch_size": 8}
TWO: dict[str, object] = {"num_processes": 2, "micro_batch_size": 4}
FSDP = {"strategy": "fsdp"}
ACCELERATE = ("accelerate.commands.accelerate_cli", "launch")
TORCHRUN = ("torch.distributed.run", "--nproc_per_node=2", "--standalone")
# Nobody else listens at a port that the system chooses.
ON_TWO = ("--num_processes=2", "--main_process_port=0")


def run_with(launcher: tuple[str, ...], folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", *launcher, "-m", "gpt", "pretrain"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize(
    ("launcher", "launch"),
    [
        pytest.param((*ACCELERATE, "--cpu", "--num_processes=1"), ONE, id="one", marks=pytest.mark.slow),
        pytest.param((*ACCELERATE, "--multi_gpu", *ON_TWO), TWO, id="two", marks=pytest.mark.long),
        # It starts one process, and `gpt pretrain` the two.
        pytest.param((*ACCELERATE, "--cpu", "--num_processes=2"), TWO, id="two-on-cpus", marks=pytest.mark.long),
        pytest.param((*ACCELERATE, "--use_fsdp", *ON_TWO), TWO | FSDP, id="two-fsdp", marks=pytest.mark.slow),
        pytest.param(TORCHRUN, TWO, id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_another_launcher_trains_to_the_same_bytes(
    make_project: Callable[..., Path], launcher: tuple[str, ...], launch: dict[str, object]
) -> None:
    make_project("own", launch=launch)
    if launch is ONE:
        expected = train_here()
    else:
        output, errors = start().communicate(timeout=180)
        assert WEIGHTS.exists(), output + errors
        expected = WEIGHTS.read_bytes()
    done = run_with(launcher, make_project("other", launch=launch))
    assert done.returncode == 0, done.stdout + done.stderr
    assert WEIGHTS.read_bytes() == expected


@pytest.mark.parametrize(
    ("launcher", "launch", "named"),
    [
        pytest.param(
            (*ACCELERATE, "--cpu", "--num_processes=2"),
            ONE,
            ["told of several processes, but starts only one on CPUs"],
            id="a lost process",
        ),
        pytest.param(
            (*ACCELERATE, "--use_fsdp", "--mixed_precision=bf16", *ON_TWO),
            TWO,
            ["(accelerate launch --use_fsdp): params.yaml says launch.strategy", "set train.precision: bf16"],
            id="FSDP and bf16",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (*ACCELERATE, "--cpu", "--num_processes=1", "--dynamo_backend=inductor"),
            ONE,
            ["(accelerate launch --dynamo_backend): params.yaml says launch.compile: false"],
            id="compile",
            marks=pytest.mark.slow,
        ),
        pytest.param(TORCHRUN, ONE, ["launch asks for 1 processes, but 2 run"], id="two", marks=pytest.mark.slow),
    ],
)
def test_what_a_launcher_was_told_and_params_yaml_does_not_say_is_refused_before_training(
    make_project: Callable[..., Path], launcher: tuple[str, ...], launch: dict[str, object], named: list[str]
) -> None:
    done = run_with(launcher, make_project(launch=launch))
    assert done.returncode != 0
    errors = {line for line in done.stderr.splitlines() if line.startswith("error: ")}  # each process tells its own
    assert len(errors) == len(named), done.stderr
    for words in named:
        assert any(words in error for error in errors), errors
    assert not WEIGHTS.exists()
    assert not paths.CHECKPOINTS.exists()


def test_gradient_accumulation_that_params_yaml_says_too_changes_no_byte(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project("own", launch={"micro_batch_size": 2})
    expected = train_here()
    make_project("agreed", launch={"micro_batch_size": 2})
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert train_here() == expected


@pytest.mark.parametrize("launch", [ONE, TWO], ids=["one", "two"])
def test_other_gradient_accumulation_is_refused_before_training(
    make_project: Callable[..., Path], launch: dict[str, object]
) -> None:
    make_project(launch=launch)
    process = start(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="3")
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 2, errors
    assert errors.startswith("error: ACCELERATE_GRADIENT_ACCUMULATION_STEPS = '3'")
    assert len(errors.splitlines()) == 1
    assert not paths.CHECKPOINTS.exists()
