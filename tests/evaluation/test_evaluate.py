import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt import paths
from gpt.corpus.documents import describe_documents, read_documents
from gpt.errors import UserError
from gpt.evaluation.evaluate import evaluate
from gpt.evaluation.likelihood import split_likelihood
from gpt.evaluation.scores import ITEMS_FILE, PASSAGES_FILE, Items, Passages
from gpt.files import read_json, sha256_file, write_json
from gpt.model.storage import load_model
from gpt.params.project import load_params
from gpt.tokens.shards import TokenReader
from tests import ROOT
from tests.conftest import small_change, write_params
from tests.evaluation.benchmarks.made_up import make_items, write_items

SMALL: dict[str, object] = {"max_new_tokens": 8, "benchmarks": []}
BF16 = SMALL | {"precision": "bf16"}

QUIZ: dict[str, object] = {"benchmarks": ["quiz", "tale"], "limit": 150}
# What every process imports first: it is in the middle of the benchmarks when it says so.
PAUSE = """
import time
from gpt.evaluation.benchmarks import continuations
score = continuations._score_batch
def slow(*arguments):
    print("scoring", flush=True)
    time.sleep(60)
    return score(*arguments)
continuations._score_batch = slow
"""


def add_benchmarks() -> None:
    """Bring two benchmarks to the project in the current folder, in words that its tokenizer knows."""

    def known(text: str) -> str:
        return "".join(character for character in text if character in "abcdefghijklmnopqrstuvwxyz ") or "to be"

    for name, choices in (("quiz", 4), ("tale", 1)):
        items = make_items(name, 160, choices)
        for item in items:
            own = tuple(replace(each, context=known(each.context), continuation=f" {known(each.continuation)}")
                        for each in item.choices)  # fmt: skip
            write_items(paths.BENCHMARKS, [replace(item, choices=own)])
    report = read_json(paths.DOCUMENTS / "report.json", "")
    report["contaminated"] |= {"quiz": {"touched": ["quiz/validation/3"]}, "tale": {"touched": []}}
    write_json(paths.DOCUMENTS / "report.json", report)


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join([*environment.pop("first", "").split(), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-m", "gpt", "evaluate", *arguments],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def written() -> dict[str, str]:
    """Return the hashes of everything that an evaluation writes, no matter which run it was."""
    files = [paths.EVALUATION, paths.SAMPLES, *sorted(paths.SCORES.rglob("*.parquet"))]
    return {str(path): sha256_file(path) for path in files}


@pytest.mark.slow
def test_several_processes_share_documents_and_items_and_write_the_very_bytes_of_one(
    trained_project: Path, copy_project: Callable[..., Path]
) -> None:
    """The tests let each process compute with one thread: with another number of them, last digits differ."""
    folder = copy_project(trained_project, evaluate=QUIZ)
    add_benchmarks()
    tables = []
    for processes in (1, 2):
        change = small_change(folder / "text.jsonl")
        change["launch"] |= {"num_processes": processes, "micro_batch_size": 1}
        change["evaluate"] |= QUIZ
        write_params(folder, change)
        process = start()
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert output.count("test: ") == output.count("centred score") == 1, output
        tables.append(written())
        assert len(Items.read(paths.SCORES / ITEMS_FILE)) == 300
    assert tables[0] == tables[1]
    assert len(tables[0]) == 4
    output, errors = start("--all-items").communicate(timeout=240)
    assert output.count("quiz") == 1, errors
    assert written() == tables[0]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_items_are_scored_ends_it_with_a_word_and_nothing_written(
    trained_project: Path, copy_project: Callable[..., Path], processes: int, signum: signal.Signals
) -> None:
    folder = copy_project(trained_project, evaluate=QUIZ, launch={"num_processes": processes, "micro_batch_size": 1})
    add_benchmarks()
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(PAUSE, encoding="utf-8")
    process = start(first=str(folder / "site"))
    assert process.stdout is not None
    assert process.stdout.readline() == "scoring\n", process.communicate()
    process.send_signal(signum)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, output + errors
    message = f"stopped by {signum.name} before all was measured; nothing was written, run it again"
    assert errors.count(message) == 1, errors
    assert "Traceback" not in errors
    assert not paths.SCORES.exists()
    assert not paths.EVALUATION.exists()
    assert not paths.SAMPLES.exists()


def test_it_writes_figures_and_samples(
    trained_project: Path, copy_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_project(trained_project)
    params = load_params()
    metrics = evaluate(params)
    assert json.loads(paths.EVALUATION.read_text()) == metrics
    assert json.loads(paths.METRICS.read_text()) == {
        split: {"bits_per_byte": metrics[split]["bits_per_byte"]} for split in ("test", "validation")
    }
    assert metrics["weights_sha256"] == sha256_file(paths.BASE_MODEL / "model.safetensors")
    for split in ("validation", "test"):
        figures, reader = metrics[split], TokenReader(paths.TOKENS, split)
        assert figures["tokens"] == reader.tokens
        assert figures["bytes"] == reader.text_bytes
        assert figures["documents"] == reader.documents
        assert figures["documents_sha256"] == describe_documents(paths.DOCUMENTS)[split]["sha256"]
        assert (figures["split_documents"], figures["split_bytes"]) == (reader.documents, reader.text_bytes)
        expected = split_likelihood(load_model(paths.BASE_MODEL, torch.device("cpu"))[0], reader)
        assert figures["loss"] == pytest.approx(expected.loss, rel=1e-6)
        passages = Passages.read(paths.SCORES / PASSAGES_FILE).of_split(split)
        assert figures["bits_per_byte"] == passages.nats.sum() / math.log(2) / passages.bytes.sum()
        assert set(passages.document) == {entry["id"] for entry in read_documents(paths.DOCUMENTS, split)}
        assert list(figures["by_source"]) == ["made-up"]
        assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
        bits = figures["loss"] / math.log(2) * figures["tokens"] / figures["bytes"]
        assert figures["bits_per_byte"] == pytest.approx(bits)
    samples = json.loads(paths.SAMPLES.read_text())
    assert [(sample["temperature"], sample["prompt"]) for sample in samples] == [
        (temperature, prompt) for temperature in (0.8, 0.0, 1.2) for prompt in params.evaluate.prompts
    ]
    assert all(sample["completion"] for sample in samples)


def test_further_temperatures_leave_the_first_samples_as_they_are(
    trained_project: Path, copy_project: Callable[..., Path]
) -> None:
    folder = copy_project(trained_project)
    evaluate(load_params())
    before = json.loads(paths.SAMPLES.read_text())
    write_params(
        folder, small_change(Path("text.jsonl").absolute()) | {"evaluate": SMALL | {"temperatures": [0.8, 0.5]}}
    )
    evaluate(load_params())
    after = json.loads(paths.SAMPLES.read_text())
    assert after[:3] == before[:3], "those of evaluate.temperature"
    assert [sample["temperature"] for sample in after] == [0.8] * 3 + [0.5] * 3, "each temperature once"


def test_evaluating_twice_gives_the_same_bytes(trained_project: Path, copy_project: Callable[..., Path]) -> None:
    copy_project(trained_project)
    hashes = []
    for _ in range(2):
        evaluate(load_params())
        files = (paths.SAMPLES, paths.ATTENTION, paths.EVALUATION, paths.SCORES / PASSAGES_FILE)
        hashes.append([*map(sha256_file, files)])
    assert hashes[0] == hashes[1]


def test_a_part_of_each_split_is_scored_where_params_say_so(
    trained_project: Path, copy_project: Callable[..., Path]
) -> None:
    copy_project(trained_project, evaluate={"max_tokens": 700})
    metrics = evaluate(load_params())
    passages = Passages.read(paths.SCORES / PASSAGES_FILE)
    for split in ("validation", "test"):
        figures, described = metrics[split], describe_documents(paths.DOCUMENTS)[split]
        assert figures["tokens"] <= 700
        assert 1 <= figures["documents"] < figures["split_documents"] == described["documents"]
        assert figures["bytes"] < figures["split_bytes"] == described["bytes"]
        assert figures["documents_sha256"] != described["sha256"], "other documents than the whole split"
        assert len(set(passages.of_split(split).document)) == figures["documents"]


def test_in_bf16_it_scores_nearly_the_same(trained_project: Path, copy_project: Callable[..., Path]) -> None:
    copy_project(trained_project)
    exact = evaluate(load_params())["test"]["loss"]
    write_params(Path(), small_change(Path("text.jsonl").absolute()) | {"evaluate": BF16})
    assert exact != evaluate(load_params())["test"]["loss"] == pytest.approx(exact, rel=0.01)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("environment", "settings", "message"),
    [
        ({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, {}, "TORCH_ALLOW_TF32.*params.yaml says evaluate.precision: fp32"),
        ({"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, {}, "evaluate.precision .fp32. leaves as they are; unset it"),
        ({}, {"precision": "tf32"}, "params.yaml: evaluate.precision = 'tf32' needs a GPU"),
        ({}, {"precision": "fp16"}, "params.yaml: evaluate.precision = 'fp16' needs a GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_what_would_compute_in_another_precision_is_refused(
    trained_project: Path,
    copy_project: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    settings: dict[str, object],
    message: str,
) -> None:
    copy_project(trained_project, evaluate=settings)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        evaluate(load_params())
    assert not paths.SCORES.exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def no_numbers() -> None:
    path = paths.BASE_MODEL / "model.safetensors"
    weights = load_file(path)
    save_file({name: torch.full_like(weight, math.nan) for name, weight in weights.items()}, path)


DAMAGE: dict[str, tuple[str, Callable[[], Any]]] = {
    "a changed byte of a document": ("test_00000.jsonl: SHA-256", lambda: flip(paths.DOCUMENTS / "test_00000.jsonl")),
    "weights that are no numbers": ("document .* is not a finite number", no_numbers),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_what_does_not_fit_is_refused_and_the_earlier_samples_stay(
    trained_project: Path, copy_project: Callable[..., Path], message: str, damage: Callable[[], Any]
) -> None:
    copy_project(trained_project)
    paths.SAMPLES.parent.mkdir(parents=True)
    paths.SAMPLES.write_text("earlier")
    paths.SCORES.mkdir()
    (paths.SCORES / PASSAGES_FILE).write_text("earlier")
    damage()
    with pytest.raises(UserError, match=message):
        evaluate(load_params())
    assert paths.SAMPLES.read_text() == (paths.SCORES / PASSAGES_FILE).read_text() == "earlier"
    assert not paths.EVALUATION.exists()


def test_figures_that_cannot_be_written_leave_all_as_it_was(
    trained_project: Path, copy_project: Callable[..., Path]
) -> None:
    copy_project(trained_project)
    evaluate(load_params())
    kept = (paths.SAMPLES, paths.ATTENTION, paths.EVALUATION, paths.SCORES / PASSAGES_FILE)
    before = [sha256_file(path) for path in kept]
    paths.METRICS.unlink()
    paths.METRICS.mkdir()  # no file can take its place
    write_params(Path(), small_change(Path("text.jsonl").absolute()) | {"evaluate": BF16})
    with pytest.raises(OSError, match=r"evaluate\.json"):
        evaluate(load_params())
    assert [sha256_file(path) for path in kept] == before
    names = ["attention.json", "evaluate.json", "samples.json", "scores"]
    assert sorted(path.name for path in paths.SCORES.parent.iterdir()) == names
