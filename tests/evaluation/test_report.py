import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.corpus.documents import describe_documents
from gpt.errors import UserError
from gpt.evaluation.report import draw_training, evaluate
from gpt.files import sha256_file, sha256_tree
from gpt.params.project import load_params
from gpt.tokens.shards import TokenReader


def decode_png(path: Path) -> tuple[int, int]:
    """Return width and height of a PNG; fail if a chunk is damaged or the pixels are not all there."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, names, pixels = 8, [], b""
    width = height = 0
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(name + body)
        names.append(name)
        if name == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        pixels += body if name == b"IDAT" else b""
        place += 12 + length
    assert names[0] == b"IHDR"
    assert names[-1] == b"IEND"
    assert len(zlib.decompress(pixels)) == height * (1 + 4 * width)  # RGBA, one filter byte a row
    return width, height


def test_it_writes_figures_samples_and_a_report(
    trained_project: Path, copy_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_project(trained_project)
    params = load_params()
    metrics = evaluate(params)
    assert json.loads(paths.EVALUATE_METRICS.read_text()) == metrics
    assert metrics["weights_sha256"] == sha256_file(paths.BASE_MODEL / "model.safetensors")
    report = (paths.REPORTS / "evaluate.md").read_text()
    for split in ("validation", "test"):
        figures, reader = metrics[split], TokenReader(paths.TOKENS, split)
        assert figures["tokens"] == reader.tokens
        assert figures["bytes"] == reader.text_bytes
        assert figures["documents"] == reader.documents
        assert figures["documents_sha256"] == describe_documents(paths.DOCUMENTS)[split]["sha256"]
        assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
        bits = figures["loss"] / math.log(2) * figures["tokens"] / figures["bytes"]
        assert figures["bits_per_byte"] == pytest.approx(bits)
        assert f"**{figures['bits_per_byte']:.4f}**" in report
    samples = json.loads((paths.REPORTS / "samples.json").read_text())
    assert [sample["prompt"] for sample in samples] == list(params.evaluate.prompts)
    for sample in samples:
        assert f"{sample['prompt']}│{sample['completion']}" in report
    assert decode_png(paths.REPORTS / "training.png") == (880, 495)


def test_evaluating_twice_gives_the_same_bytes(trained_project: Path, copy_project: Callable[..., Path]) -> None:
    copy_project(trained_project)
    hashes = []
    for _ in range(2):
        evaluate(load_params())
        hashes.append((sha256_tree(paths.REPORTS), sha256_file(paths.EVALUATE_METRICS)))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("damaged", ["training.csv", "validation.csv"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a,b\n1,2\n", b"step,train_loss,validation_loss\none,2,3\n"])
def test_a_damaged_curve_is_a_clear_error(tmp_path: Path, damaged: str, content: bytes | None) -> None:
    training, validation = tmp_path / "training.csv", tmp_path / "validation.csv"
    training.write_text("step,train_loss\n1,3.5\n")
    validation.write_text("step,validation_loss\n1,3.5\n")
    (tmp_path / damaged).unlink()
    if content is not None:
        (tmp_path / damaged).write_bytes(content)
    with pytest.raises(UserError, match=rf"{damaged}: .*run `gpt pretrain` again"):
        draw_training(training, validation, tmp_path / "training.png")


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
    "no curve": ("training.csv: not found", lambda: paths.TRAINING_PLOT.unlink()),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_what_does_not_fit_is_refused_and_the_earlier_report_stays(
    trained_project: Path, copy_project: Callable[..., Path], message: str, damage: Callable[[], Any]
) -> None:
    copy_project(trained_project)
    paths.REPORTS.mkdir(parents=True)
    (paths.REPORTS / "evaluate.md").write_text("earlier")
    damage()
    with pytest.raises(UserError, match=message):
        evaluate(load_params())
    assert (paths.REPORTS / "evaluate.md").read_text() == "earlier"
    assert not paths.EVALUATE_METRICS.exists()
