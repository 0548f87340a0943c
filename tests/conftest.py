"""A project folder that computes in seconds: made-up text, a character tokenizer, a model of a few thousand weights."""

import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from gpt import paths
from gpt.corpus import prepare as corpus
from gpt.corpus.documents import sample_texts
from gpt.files import sha256_file
from gpt.limits import control_groups
from gpt.params.project import load_params
from gpt.sources import benchmarks
from gpt.sources import fetch as sources
from gpt.tokens import shards, tokenizer
from gpt.tokens import tokenize as encoding
from tests import ROOT

Change = dict[str, dict[str, object]]

# Models this small are slower on two threads; the processes that the tests start take it over.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "how much of what `pytest -m chaos` does")
    group.addoption("--chaos-kills", type=int, default=3, help="SIGKILLs (default: %(default)s)")
    group.addoption("--chaos-stops", type=int, default=1, help="SIGTERMs to each command (default: %(default)s)")
    group.addoption(
        "--chaos-outage", type=int, default=5, help="seconds without a tracking server (default: %(default)s)"
    )
    group.addoption("--chaos-busy", action="store_true", help="beside processes that keep all cores busy")
    group.addoption("--chaos-seed", type=int, default=0, help="of the random instants (default: another one each time)")
    group = parser.getgroup("environments", "how much of what tests/e2e/test_broken_environment.py does")
    group.addoption("--environments", type=int, default=4, help="random broken environments (default: %(default)s)")
    group.addoption("--environments-seed", type=int, default=0, help="of them (default: %(default)s)")


def write_params(folder: Path, change: Change) -> None:
    """Write the repository's params.yaml with some values changed."""
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    merge(values, change)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(values, file)


def merge(values: dict[str, Any], change: dict[str, Any]) -> None:
    """Set values in nested settings; what the change does not name stays. Later merges leave the change as it is."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = deepcopy(value)


def make_text(path: Path) -> None:
    words = random.Random(0).choices(["to", "be", "or", "not", "queen", "crown", "sword", "night", "naïve"], k=4000)
    lines = (" ".join(words[start : start + 40]) for start in range(0, len(words), 40))
    path.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines), encoding="utf-8")


def small_change(text: Path) -> Change:
    """Return what makes the repository's params.yaml one of a small project on the file `text`."""
    source = {"name": "made-up", "kind": "local", "path": str(text), "sha256": sha256_file(text), "licence": "none"}
    return {
        "fetch": {"sources": [source], "benchmarks": []},
        "prepare": {
            "engine": {"kind": "local", "workers": 1, "memory_gb": 1, "slurm_partition": "", "slurm_time": "1:00:00"},
            "shards": 1,
            "validation_fraction": 0.2,
            "test_fraction": 0.2,
            "split_seed": 0,
        },
        "tokenizer": {"kind": "char", "vocab_size": 400},
        "tokenize": {"shard_tokens": 1024},
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.0, "init": "gpt2"},
        "train": {"max_steps": 4, "batch_size": 8},
        "evaluate": {"max_new_tokens": 8, "benchmarks": []},
        "launch": {"micro_batch_size": 8},
    }


def prepare_data(folder: Path) -> None:
    """Run the stages after fetch, up to tokenize, in a project."""
    params = load_params(folder / "params.yaml")
    documents, tokens = folder / paths.DOCUMENTS, folder / paths.TOKENS
    names, metrics = params.evaluate.benchmarks, folder / paths.PREPARE_COUNTS
    corpus.prepare(params.prepare, folder / paths.RAW, folder / paths.BENCHMARKS, names, documents, metrics)
    texts = sample_texts(documents, "train", params.tokenizer.train_bytes)
    tokenizer.build_tokenizer(params.tokenizer, texts, folder / paths.TOKENIZER)
    engine, metrics = params.prepare.engine, folder / paths.TOKENIZE_COUNTS
    encoding.tokenize(params.tokenize, engine, documents, folder / paths.TOKENIZER, tokens, metrics)


def without_roots_rights(*command: str) -> list[str]:
    """Return a command that runs one for which permissions of files count, although root runs the tests."""
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override", *command]


@pytest.fixture(scope="session")
def prepared_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which every stage up to tokenize has run. To copy, not to change."""
    folder = tmp_path_factory.mktemp("prepared")
    make_text(folder / "text.jsonl")
    write_params(folder, small_change(folder / "text.jsonl"))
    params = load_params(folder / "params.yaml")
    sources.fetch(params.fetch.sources, folder / paths.RAW)
    benchmarks.build_benchmarks(params.fetch.benchmarks, folder / paths.BENCHMARKS)
    prepare_data(folder)
    return folder


@pytest.fixture(scope="session")
def trained_project(prepared_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared project with a model (of random weights) and a loss curve, ready to evaluate. To copy."""
    from gpt.model.storage import save_model
    from gpt.model.transformer import GPTConfig, GPTModel

    folder = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(prepared_project, folder)
    vocab_size = shards.read_index(folder / paths.TOKENS)["vocab_size"]
    model = GPTModel(GPTConfig(vocab_size, **load_params(folder / "params.yaml").section("model")))
    model.init_weights(seed=0)
    save_model(model, folder / paths.TOKENIZER, folder / paths.BASE_MODEL)
    (folder / paths.TRAINING_PLOT).parent.mkdir()
    (folder / paths.TRAINING_PLOT).write_text("step,train_loss\n2,5.5\n4,5.4\n", encoding="utf-8")
    (folder / paths.VALIDATION_PLOT).write_text("step,validation_loss\n4,5.45\n", encoding="utf-8")
    return folder


@pytest.fixture
def copy_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that copies a project into a folder of the test's own, params.yaml changed, and goes there."""

    def copy(project: Path, **change: dict[str, object]) -> Path:
        folder = tmp_path / "project"
        shutil.copytree(project, folder)
        merged = small_change(folder / "text.jsonl")
        for section, keys in change.items():
            merged[section] = merged.get(section, {}) | keys
        write_params(folder, merged)
        monkeypatch.chdir(folder)
        return folder

    return copy


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow database: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    code = "from gpt.tracking.store import client; client().search_experiments()"
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{path}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)
    return path


@pytest.fixture
def memory_group() -> Iterator[Callable[[int], Path]]:
    """Return a function that makes a control group of this machine which allows so many bytes; skip where none can be made.

    A process joins it by writing its number to `cgroup.procs` there.
    """
    group = Path(next(iter([*control_groups("memory")][-1:]), "/sys/fs/cgroup"), f"gpt-test-{uuid.uuid4().hex}")

    def make(size: int) -> Path:
        try:
            group.mkdir()
            limit = next(path for path in (group / "memory.max", group / "memory.limit_in_bytes") if path.exists())
            limit.write_text(str(size))
        except (OSError, StopIteration):
            pytest.skip("control groups cannot be made here")
        return group

    yield make
    if group.is_dir():
        group.rmdir()


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Return a function that lets torch say that there is a GPU of a compute capability, as in 9, 0."""

    def pretend(*capability: int) -> None:
        class Properties:
            major, minor = capability

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)

    return pretend
