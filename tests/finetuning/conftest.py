"""Small recipes: made-up labelled data, and a base model of a few thousand weights that has learned nothing."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gpt import paths
from gpt.files import sha256_file
from gpt.finetuning.finetune import finetune, make_data
from gpt.finetuning.judging.evaluate import evaluate
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.finetuning import FOLDER
from gpt.params.project import load_params
from gpt.tokens.tokenizer import load_tokenizer
from gpt.tracking import store
from tests import ROOT
from tests.conftest import merge
from tests.training.conftest import fresh_accelerate, make_project

__all__ = ["fresh_accelerate", "make_project", "make_recipe"]

NAME = "small"
FEELINGS = [
    {"text": f"{word} {where} {number}", "label": label}
    for number in range(8)
    for where in ("my lord", "my lady", "the king")
    for word, label in (("well met", "glad"), ("alas", "sad"))
]
TALKS = [
    {"messages": [{"role": "user", "content": f"who is {number}?"}, {"role": "assistant", "content": f"I am {number}"}]}
    for number in range(48)
]
CHOICES = [
    {"prompt": f"who is {number}?", "chosen": f"I am {number}", "rejected": f"not {number}"} for number in range(48)
]
KINDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "classify": (
        FEELINGS,
        {"data": {"form": "text_label"}, "task": {"kind": "classify", "head_learning_rate": 0.01}},
    ),
    "instruct": (
        TALKS,
        {
            "data": {"form": "messages"},
            "task": {"kind": "instruct", "template": "turns", "cut": "tokens", "train_on": "all_answers"},
        },
    ),
    "preference": (
        CHOICES,
        {
            "data": {"form": "preference"},
            "task": {"kind": "preference", "template": "turns", "cut": "tokens", "beta": 0.5},
        },
    ),
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.1},
    "head": {"kind": "head"},
    "last_blocks": {"kind": "last_blocks", "blocks": 1},
}
TRAIN = {
    "epochs": 2.0,
    "batch_size": 8,
    "dropout": 0.1,
    "log_interval": 2,
    "evaluations": 2,
    "checkpoint_interval": 2,
    "learning_rate": 0.003,
}


def write_recipe(change: dict[str, Any], name: str = NAME) -> None:
    """Write the committed recipe of SMS spam with some values changed; `task` and `method` are replaced as a whole."""
    yaml = YAML(typ="safe")
    values = yaml.load((ROOT / FOLDER / "spam.yaml").read_text(encoding="utf-8"))
    for whole in ("task", "method"):
        values[whole] = change.pop(whole, values[whole])
    for whole in ("fields", "labels"):
        values["data"][whole] = change.get("data", {}).pop(whole, values["data"][whole])
    merge(values, change)
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(values, file)


def write_source(path: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write rows as JSON lines; return the source that they are."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"name": path.stem, "kind": "local", "path": str(path), "sha256": sha256_file(path), "licence": "none"}


def save_base(folder: Path = Path("models/start"), **change: Any) -> None:
    """Save a model whose weights are drawn, with the project's tokenizer."""
    settings = load_params().section("model") | {"block_size": 48, "init": "gpt2", "dropout": 0.0} | change
    model = GPTModel(GPTConfig(vocab_size=load_tokenizer(paths.TOKENIZER).n_vocab, **settings))
    model.init_weights(1)
    save_model(model, paths.TOKENIZER, folder)


@pytest.fixture
def make_recipe(make_project: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that makes a project with a recipe of a kind of task and a method, and its data, and goes there."""

    def make(
        kind: str = "instruct",
        method: str = "full",
        folder: str = "project",
        launch: dict[str, Any] | None = None,
        rows: Sequence[dict[str, Any]] | None = None,
        model: dict[str, Any] | None = None,
        **change: Any,
    ) -> Path:
        project = make_project(folder, launch=launch or {})
        save_base(**(model or {}))
        made_up, settings = KINDS[kind]
        data = {"fields": {}, "labels": {}, "balance": False, "deduplicate": "exact", "too_long": "error"}
        values: dict[str, Any] = {"base": "models/start"}
        merge(values, {"train": TRAIN, "method": METHODS[method]})  # copies: other tests begin with the same
        merge(
            values,
            {"data": data | {"repeat": {}} | {"sources": [write_source(project / "examples.jsonl", rows or made_up)]}},
        )
        merge(values, settings)
        merge(values, change)
        write_recipe(values)
        make_data(NAME, load_params())
        return project

    return make


@pytest.fixture
def make_tuned(
    make_recipe: Callable[..., Path], empty_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Path]:
    """Return a function that makes a project with a store of its own, whose recipe was trained and judged."""

    def make(kind: str = "classify", method: str = "full", **change: Any) -> Path:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
        project = make_recipe(kind, method, **change)
        shutil.copyfile(empty_store, project / "mlflow.db")
        tune()
        return project

    return make


def tune() -> None:
    """Train what the recipe says, and judge it."""
    finetune(NAME, load_params())
    evaluate(NAME)


def change_recipe(change: dict[str, Any]) -> None:
    """Set values in the recipe."""
    yaml, file = YAML(typ="safe"), FOLDER / f"{NAME}.yaml"
    values = yaml.load(file.read_text(encoding="utf-8"))
    merge(values, change)
    with file.open("w", encoding="utf-8") as writer:
        yaml.dump(values, writer)


def register_base(folder: Path) -> str:
    """Make a version that has the weights of a folder, as tags say; return its URI."""
    client = store.client()
    client.create_registered_model("base-gpt")
    tags = {"weights_sha256": sha256_file(folder / "model.safetensors"), "fingerprint": "0" * 16}
    client.create_model_version("base-gpt", folder.absolute().as_uri(), tags=tags)
    return "models:/base-gpt/1"
