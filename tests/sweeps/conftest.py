"""A project with a sweep's file, to be read, suggested from and recorded; nothing trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gpt.files import parse_yaml
from gpt.sweeps.settings import Sweep, load_sweep
from tests import ROOT
from tests.conftest import merge

Make = Callable[..., Sweep]


@pytest.fixture
def write_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that writes sweeps/lr.yaml, changed as it is told, beside the repository's params.yaml, and goes there."""

    def write(**change: Any) -> None:
        (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        values = {
            "method": "random",
            "trials": 12,
            "seed": 1,
            "metric": "validation.bits_per_byte",
            "direction": "minimize",
            "parameters": {"train.learning_rate": {"low": 0.001, "high": 0.1, "log": True}},
            "overrides": {},
            "pruner": {"kind": "none"},
        }
        for key, value in change.items():
            if key in ("parameters", "pruner"):
                values[key] = value
            else:
                merge(values, {key: value})
        (tmp_path / "sweeps").mkdir(exist_ok=True)
        with (tmp_path / "sweeps/lr.yaml").open("w", encoding="utf-8") as file:
            YAML().dump({key: value for key, value in values.items() if value is not None}, file)
        monkeypatch.chdir(tmp_path)

    return write


@pytest.fixture
def make_sweep(write_sweep: Callable[..., None]) -> Make:
    """Return a function that makes a sweep that was read and tried on params.yaml."""

    def make(**change: Any) -> Sweep:
        write_sweep(**change)
        return load_sweep("lr")

    return make


@pytest.fixture
def settings() -> dict[str, Any]:
    """params.yaml of the repository, parsed."""
    return parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
