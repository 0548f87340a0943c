"""A project folder whose model is trained and measured, so that it can be registered: in seconds, on made-up text."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML

from gpt import paths
from gpt.evaluation.benchmarks.continuations import encode_pair, score_continuations
from gpt.evaluation.benchmarks.figures import tabulate
from gpt.evaluation.benchmarks.items import read_all
from gpt.evaluation.held_out import HELD_OUT, read_held_out
from gpt.evaluation.metrics import main_figures
from gpt.evaluation.passages import score_documents
from gpt.evaluation.scores import ITEMS_FILE, PASSAGES_FILE, Items, Passages
from gpt.files import read_json, sha256_file, write_json
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import Params, load_params
from gpt.registry.package import RegisteredModel, register
from gpt.registry.promotion import promote
from gpt.tokens.shards import TokenReader, data_id
from gpt.tokens.tokenizer import load_tokenizer
from tests.conftest import merge, small_change, write_params


def make_model(project: Path, steps: int, seed: int = 0) -> None:
    """Write models/base, models/run.json and reports/evaluate.json; a model of more steps predicts better."""
    index = read_json(project / paths.TOKENS / "index.json", "")
    settings = load_params(project / "params.yaml").model
    model = GPTModel(GPTConfig(vocab_size=index["vocab_size"], **settings.model_dump()))
    model.init_weights(seed=seed)
    torch.manual_seed(seed)  # dropout
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    reader, length = TokenReader(project / paths.TOKENS, "train"), settings.block_size
    size = 8 * (length + 1)
    for step in range(steps):
        first = step * size % (reader.tokens - size)
        tokens = torch.from_numpy(reader.read(first, size)).view(8, length + 1)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(model.eval(), project / paths.TOKENIZER, project / paths.BASE_MODEL)
    write_json(project / paths.RUN, describe_run(project, f"run-{steps}-{seed}"))
    measure(project, model)


def describe_run(project: Path, fingerprint: str, num_processes: int = 1) -> dict[str, object]:
    """Return what `gpt pretrain` says of a run in models/run.json."""
    data = data_id(project / paths.TOKENS)
    return {"fingerprint": fingerprint, "num_processes": num_processes, "hardware": "a machine", "data_sha256": data}


def measure(project: Path, model: GPTModel) -> None:
    """Write reports/evaluate.json, metrics/evaluate.json and reports/scores/ as `gpt evaluate` does."""
    encoding = load_tokenizer(project / paths.BASE_MODEL / "tokenizer")
    documents = project / paths.DOCUMENTS
    scored = {
        split: score_documents(model, read_held_out(documents, split, encoding), encoding, split) for split in HELD_OUT
    }
    metrics: dict[str, Any] = {split: each.figures() for split, each in scored.items()}
    metrics["weights_sha256"] = sha256_file(project / paths.BASE_MODEL / "model.safetensors")
    write_json(project / paths.EVALUATION, metrics)
    write_json(project / paths.METRICS, main_figures(metrics))
    (project / paths.SCORES).mkdir(parents=True, exist_ok=True)
    Passages.join([each.passages for each in scored.values()]).write(project / paths.SCORES / PASSAGES_FILE)
    answer(project, model).write(project / paths.SCORES / ITEMS_FILE)


def answer(project: Path, model: GPTModel) -> Items:
    """Return what a model scores on the benchmarks of params.yaml, without lm-eval, which takes a second to import."""
    encoding = load_tokenizer(project / paths.BASE_MODEL / "tokenizer")
    settings = load_params(project / "params.yaml").evaluate
    benchmarks = read_all(settings, project / paths.BENCHMARKS, project / paths.DOCUMENTS)
    pairs = [encode_pair(encoding, *request) for benchmark in benchmarks for request in benchmark.requests()]
    nats, misses = score_continuations(model, pairs)
    return tabulate(benchmarks, nats, misses == 0)


def change_params(project: Path, change: dict[str, Any]) -> Params:
    """Set values in a project's params.yaml; return the settings."""
    yaml, file = YAML(), project / "params.yaml"
    values = yaml.load(file.read_text(encoding="utf-8"))
    merge(values, change)
    with file.open("w", encoding="utf-8") as writer:
        yaml.dump(values, writer)
    return load_params(file)


def bits_per_byte(project: Path) -> float:
    return read_json(project / paths.EVALUATION, "")["test"]["bits_per_byte"]


def register_model(project: Path, steps: int) -> RegisteredModel:
    """Make a model of so many steps and register it."""
    make_model(project, steps)
    return register(load_params(project / "params.yaml"), project)


@pytest.fixture(scope="session")
def built(
    prepared_project: Path,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A project with a model of 5 steps and an empty store, to be copied."""
    folder = tmp_path_factory.mktemp("built") / "project"
    shutil.copytree(prepared_project / "data", folder / "data")
    shutil.copytree(prepared_project / "models", folder / "models")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    change = small_change(prepared_project / "text.jsonl") | {
        "register": {"name": "small-gpt", "gate": {"max_bits_per_byte": 8.0}}
    }
    write_params(folder, change)
    (folder / "requirements.lock").write_text("torch==2.13.0\n")
    make_model(folder, steps=5)
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project for one test alone; the current folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "a project"  # with a space, as folders have on a laptop
    shutil.copytree(built, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def line_of_champions(built: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Projects whose versions 1, 1 to 2, and 1 to 3 have been the champion, one after the other. To be copied: all have moved."""
    folder = tmp_path_factory.mktemp("champions")
    project, copies = folder / "a project", list[Path]()
    shutil.copytree(built, project)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GPT_CACHE", str(folder / "cache"))
        patch.chdir(project)
        params = load_params(project / "params.yaml")
        for number, steps in enumerate((5, 20, 40), 1):
            register_model(project, steps)
            promoted = promote(params, project)
            assert (promoted.verdict, promoted.version) == ("promoted", number)
            copies.append(shutil.copytree(project, folder / str(number)))
    shutil.rmtree(project)  # what a test reads is its copy
    return copies


@pytest.fixture
def make_champions(line_of_champions: list[Path], project: Path) -> Callable[[int], None]:
    """Return a function that makes `project` one whose versions 1 to `count` have been the champion, one after the other."""

    def make(count: int) -> None:
        shutil.copytree(line_of_champions[count - 1], project, dirs_exist_ok=True)

    return make


@pytest.fixture
def params(project: Path) -> Params:
    return load_params(project / "params.yaml")


@pytest.fixture(scope="session")
def registered(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RegisteredModel]:
    """A project and its registered model, to look at and not to change."""
    folder = tmp_path_factory.mktemp("registered") / "project"
    shutil.copytree(built, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        return folder, register(load_params(folder / "params.yaml"), folder)
