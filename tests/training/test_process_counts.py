"""One run that goes on with another number of processes, or another strategy: the same batches, the same loss."""

import csv
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gpt import paths
from gpt.params.project import load_params
from gpt.training.checkpoints.stable import STABLE
from tests.conftest import write_params
from tests.training.test_trainer import ROOT, WEIGHTS, largest_difference, start, wait_for_checkpoint

STEPS = 60
ONE: dict[str, object] = {"num_processes": 1, "micro_batch_size": 8, "strategy": "ddp"}
TWO: dict[str, object] = {"num_processes": 2, "micro_batch_size": 2, "strategy": "ddp"}
FSDP: dict[str, object] = TWO | {"strategy": "fsdp", "micro_batch_size": 4}

# Every process imports this first: it writes down which tokens each sequence of each global batch had.
RECORDER = """
import hashlib, os
from gpt.tokens.batches import Batches
read = Batches.read
def recording(self, number, first, last):
    inputs, targets = read(self, number, first, last)
    with open(os.environ["BATCHES"], "a") as file:
        for row, tokens in enumerate(inputs, first):
            file.write(f"{number} {row} {hashlib.sha256(tokens.numpy().tobytes()).hexdigest()}\\n")
    return inputs, targets
Batches.read = recording
"""


# The loss of what holds the first sequence of these batches is not a number: of one process among several.
POISON = """
import math
from gpt.tokens.batches import Batches
from gpt.model.transformer import GPTModel
read, forward = Batches.read, GPTModel.forward
def noting(self, number, first, last):
    Batches.is_bad = first == 0 and number in (5, 12, 13, 14, 15)
    return read(self, number, first, last)
def poisoned(self, *arguments, **options):
    result = forward(self, *arguments, **options)
    return tuple(part * math.nan for part in result) if self.training and Batches.is_bad else result
Batches.read, GPTModel.forward = noting, poisoned
"""


def start_with(folder: Path, first: str) -> "subprocess.Popen[str]":
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(first, encoding="utf-8")
    path = f"{folder / 'site'}{os.pathsep}{ROOT}"
    return start(PYTHONPATH=path, BATCHES=str(folder / "batches.txt"))


def batches(folder: Path) -> set[str]:
    return set((folder / "batches.txt").read_text(encoding="utf-8").splitlines())


def last_loss() -> float:
    with paths.TRAINING_PLOT.open(encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["train_loss"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launches", "optimizer"),
    [((ONE, TWO, ONE), "adamw"), ((TWO, FSDP, ONE), "muon")],
    ids=["1-2-1", "ddp-fsdp-1"],
)
def test_a_run_goes_on_with_other_processes(
    make_project: Callable[..., Path], launches: tuple[dict[str, object], ...], optimizer: str
) -> None:
    change = {"max_steps": STEPS, "checkpoint_interval": 10, "eval_interval": 30, "optimizer": optimizer}
    change |= {"mixture": [{"from_step": step, "shares": {"made-up": 1.0}} for step in (0, 25)]}
    still: dict[str, object] = {"dropout": 0.0}  # its masks depend on the micro-batches
    whole = make_project("whole", train=change, model=still, launch=ONE)
    output, errors = start_with(whole, RECORDER).communicate(timeout=180)
    assert WEIGHTS.exists(), output + errors
    weights, loss = load_file(WEIGHTS), last_loss()
    changing = make_project("changing", train=change, model=still, launch=launches[0])
    for launch, stop_at in zip(launches, (10, 30, None), strict=True):
        settings = load_params().model_dump(mode="json", by_alias=True)
        write_params(changing, settings | {"launch": settings["launch"] | launch})
        process = start_with(changing, RECORDER)
        if stop_at:
            wait_for_checkpoint(process, stop_at)
            process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=180)
        assert process.returncode == (128 + signal.SIGTERM if stop_at else 0), output + errors
        assert stop_at == 10 or "resuming after step" in output
    assert batches(changing) == batches(whole)
    assert len(batches(whole)) == 8 * STEPS
    assert last_loss() == pytest.approx(loss, rel=1e-4)
    assert largest_difference(weights, load_file(WEIGHTS)) < 1e-3


@pytest.mark.slow
def test_a_split_model_trains_to_what_a_whole_one_does(make_project: Callable[..., Path]) -> None:
    make_project("whole", model={"dropout": 0.0}, launch=ONE)
    output, errors = start().communicate(timeout=180)
    assert WEIGHTS.exists(), output + errors
    weights, loss = load_file(WEIGHTS), last_loss()
    make_project("split", model={"dropout": 0.0}, launch=FSDP | {"num_processes": 1})
    output, errors = start().communicate(timeout=180)
    assert WEIGHTS.exists(), output + errors
    assert last_loss() == pytest.approx(loss, rel=1e-5)
    assert largest_difference(weights, load_file(WEIGHTS)) < 1e-5
    assert [path.name for path in Path("checkpoints").iterdir()] == [STABLE], "the state before the decay alone"


@pytest.mark.slow
def test_processes_skip_and_go_back_together_when_one_of_them_finds_a_batch_bad(
    make_project: Callable[..., Path],
) -> None:
    change = {"max_skips": 3, "max_steps": 40}
    weights = []
    for name, launch in (("whole", TWO), ("split", FSDP)):
        folder = make_project(name, train=change, model={"dropout": 0.0}, launch=launch)
        output, errors = start_with(folder, POISON).communicate(timeout=180)
        assert WEIGHTS.exists(), output + errors
        assert errors.count("step 8: skipped 1 of the last 4 steps, ") == 1, errors
        assert (
            errors.count("step 16: more than 3 steps in a row skipped; going back to step 10 and past 6 batches") == 1
        )
        assert list(Path("mlartifacts").rglob("step_*.txt")), "rank 0 has written a sample"
        weights.append(load_file(WEIGHTS))
    assert largest_difference(*weights) < 1e-4
