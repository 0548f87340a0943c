"""Small projects that train, each in a folder of its own, and Accelerate as each test needs it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from gpt.params.project import Params, load_params
from tests.conftest import small_change, write_params

TRAIN = {"max_steps": 30, "log_interval": 4, "eval_interval": 15, "checkpoint_interval": 5, "sample_interval": 30}


@pytest.fixture
def make_project(
    prepared_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> Callable[..., Path]:
    """Return a function that makes a project folder of its own, with params.yaml changed, and goes there."""

    def make(name: str = "project", **change: dict[str, object]) -> Path:
        folder = tmp_path / name
        for part in ("data", "models"):
            shutil.copytree(prepared_project / part, folder / part)
        shutil.copyfile(empty_store, folder / "mlflow.db")
        merged = small_change(prepared_project / "text.jsonl")
        merged["train"] |= TRAIN
        merged["model"]["dropout"] = 0.1
        for section, keys in change.items():
            merged[section] = merged.get(section, {}) | keys
        write_params(folder, merged)
        monkeypatch.chdir(folder)
        return folder

    return make


@pytest.fixture
def params(make_project: Callable[..., Path]) -> Params:
    return load_params(make_project() / "params.yaml")


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps one state a process, which another precision would not fit."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def fp16_on_cpu() -> Callable[[float], Accelerator]:
    """Accelerate gives fp16 its scaler on GPUs only; torch's own works on a CPU, slowly."""

    def make(scale: float) -> Accelerator:
        accelerator = Accelerator(cpu=True, mixed_precision="fp16")
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # pyright: ignore[reportAttributeAccessIssue]
        return accelerator

    return make
