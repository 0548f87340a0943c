"""Small projects that train, each in a folder of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt.params import Params, load_params
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
