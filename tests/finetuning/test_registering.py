"""A recipe's model as a version of the registry: what it is called, was made from, answers, and whether it may be the champion."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from gpt.errors import UserError
from gpt.files import read_json, sha256_file
from gpt.finetuning.finetune import finetune
from gpt.finetuning.judging.evaluate import evaluate
from gpt.finetuning.places import Places
from gpt.finetuning.registering.finetuned import register_recipe
from gpt.params.project import load_params
from gpt.registry.package import RegisteredModel
from gpt.registry.record import read_record
from gpt.registry.versions import CANDIDATE, all_versions, model_folder, version_of_alias
from gpt.tracking import store
from tests.finetuning.conftest import NAME

PLACES = Places(NAME)
REGISTERED = "small-gpt-small"


@pytest.fixture
def make_tuned(make_recipe: Callable[..., Path], empty_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a project whose recipe was trained and judged, with a store of its own."""
    import shutil

    def make(kind: str = "classify", method: str = "full", **change: Any) -> Path:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
        project = make_recipe(kind, method, **change)
        if not (project / "mlflow.db").exists():
            shutil.copyfile(empty_store, project / "mlflow.db")
        finetune(NAME, load_params())
        evaluate(NAME)
        return project

    return make


@pytest.mark.parametrize("kind", ["classify", "instruct"])
def test_a_version_says_what_it_was_made_from_and_is_there_once(make_tuned: Callable[..., Path], kind: str) -> None:
    make_tuned(kind)
    first = register_recipe(NAME, load_params())
    print(first)
