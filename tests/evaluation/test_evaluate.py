import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.corpus.documents import describe_documents
from gpt.errors import UserError
from gpt.evaluation.evaluate import evaluate
from gpt.files import sha256_file
from gpt.params.project import load_params
from gpt.tokens.shards import TokenReader


def test_it_writes_figures_and_samples(
    trained_project: Path, copy_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_project(trained_project)
    params = load_params()
    metrics = evaluate(params)
    assert json.loads(paths.EVALUATE_METRICS.read_text()) == metrics
    assert metrics["weights_sha256"] == sha256_file(paths.BASE_MODEL / "model.safetensors")
    for split in ("validation", "test"):
        figures, reader = metrics[split], TokenReader(paths.TOKENS, split)
        assert figures["tokens"] == reader.tokens
        assert figures["bytes"] == reader.text_bytes
        assert figures["documents"] == reader.documents
        assert figures["documents_sha256"] == describe_documents(paths.DOCUMENTS)[split]["sha256"]
        assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
        bits = figures["loss"] / math.log(2) * figures["tokens"] / figures["bytes"]
        assert figures["bits_per_byte"] == pytest.approx(bits)
    samples = json.loads(paths.SAMPLES.read_text())
    assert [sample["prompt"] for sample in samples] == list(params.evaluate.prompts)
    assert all(sample["completion"] for sample in samples)


def test_evaluating_twice_gives_the_same_bytes(trained_project: Path, copy_project: Callable[..., Path]) -> None:
    copy_project(trained_project)
    hashes = []
    for _ in range(2):
        evaluate(load_params())
        hashes.append((sha256_file(paths.SAMPLES), sha256_file(paths.EVALUATE_METRICS)))
    assert hashes[0] == hashes[1]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def other_tokenizer() -> None:
    path = paths.TOKENS / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_id": "0" * 64}))


DAMAGE: dict[str, tuple[str, Callable[[], Any]]] = {
    "a changed byte of a test shard": ("test_00000.bin: SHA-256", lambda: flip(paths.TOKENS / "test_00000.bin")),
    "tokens of another tokenizer": ("made by another tokenizer", other_tokenizer),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_what_does_not_fit_is_refused_and_the_earlier_samples_stay(
    trained_project: Path, copy_project: Callable[..., Path], message: str, damage: Callable[[], Any]
) -> None:
    copy_project(trained_project)
    paths.SAMPLES.parent.mkdir(parents=True)
    paths.SAMPLES.write_text("earlier")
    damage()
    with pytest.raises(UserError, match=message):
        evaluate(load_params())
    assert paths.SAMPLES.read_text() == "earlier"
    assert not paths.EVALUATE_METRICS.exists()
