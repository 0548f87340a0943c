import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.evaluate import evaluate
from gpt.files import sha256_tree, write_json
from gpt.params.project import load_params
from gpt.reports.evaluation import draw_training, write_report


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


@pytest.fixture
def project(trained_project: Path, copy_project: Callable[..., Path]) -> Path:
    """A project in which every stage up to evaluate has run; the current folder."""
    folder = copy_project(trained_project)
    evaluate(load_params())
    return folder


def test_the_page_has_the_figures_the_curves_and_the_samples(project: Path) -> None:
    write_report(load_params().evaluate)
    page = (paths.REPORTS / "evaluate.md").read_text(encoding="utf-8")
    metrics = json.loads(paths.EVALUATE_METRICS.read_text(encoding="utf-8"))
    assert f"{metrics['parameters']:,} parameters: 1 layers" in page
    for split in ("validation", "test"):
        assert f"**{metrics[split]['bits_per_byte']:.4f}**" in page
    for sample in json.loads(paths.SAMPLES.read_text(encoding="utf-8")):
        assert f"{sample['prompt']}│{sample['completion']}" in page
    assert decode_png(paths.REPORTS / "training.png") == (880, 495)


def test_reporting_twice_gives_the_same_bytes(project: Path) -> None:
    hashes = []
    for _ in range(2):
        write_report(load_params().evaluate)
        hashes.append(sha256_tree(paths.REPORTS))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (paths.EVALUATE_METRICS, r"evaluate\.json: not found; run `gpt evaluate` again"),
        (paths.SAMPLES, r"samples\.json: not found; run `gpt evaluate` again"),
        (paths.TRAINING_PLOT, r"training\.csv: not found; run `gpt pretrain` again"),
    ],
)
def test_what_is_missing_is_named_and_the_earlier_page_stays(project: Path, missing: Path, message: str) -> None:
    write_report(load_params().evaluate)
    before = sha256_tree(paths.REPORTS)
    missing.unlink()
    with pytest.raises(UserError, match=message):
        write_report(load_params().evaluate)
    assert sha256_tree(paths.REPORTS) == before


def test_figures_that_are_none_are_a_clear_error(project: Path) -> None:
    write_json(paths.EVALUATE_METRICS, {"validation": {}, "test": {}, "parameters": 1})
    with pytest.raises(UserError, match=r"evaluate\.json, .*: not as `gpt evaluate` wrote them"):
        write_report(load_params().evaluate)
    assert not paths.REPORTS.exists()


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
