import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.evaluate import evaluate
from gpt.files import read_json, sha256_tree, write_json
from gpt.model.storage import load_model
from gpt.params.project import load_params
from gpt.reports.evaluation import draw_training, write_report


@pytest.fixture(scope="module")
def evaluated_project(trained_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "project"
    shutil.copytree(trained_project, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate(load_params())
    return folder


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


def test_it_shows_figures_curves_and_samples(evaluated_project: Path, copy_project: Callable[..., Path]) -> None:
    copy_project(evaluated_project)
    write_report(load_params())
    report = (paths.REPORTS / "evaluate.md").read_text(encoding="utf-8")
    metrics = read_json(paths.EVALUATE_METRICS, "")
    for split in ("validation", "test"):
        assert f"**{metrics[split]['bits_per_byte']:.4f}**" in report
    for sample in read_json(paths.SAMPLES, ""):
        assert f"{sample['prompt']}│{sample['completion']}" in report
    model, _ = load_model(paths.BASE_MODEL)
    assert f"{model.count_parameters():,} parameters: 1 layers, 16 wide, 2 heads, context 16 tokens" in report
    assert decode_png(paths.REPORTS / "training.png") == (880, 495)


def test_reporting_twice_gives_the_same_bytes(evaluated_project: Path, copy_project: Callable[..., Path]) -> None:
    copy_project(evaluated_project)
    hashes = []
    for _ in range(2):
        write_report(load_params())
        hashes.append(sha256_tree(paths.REPORTS))
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


def other_metrics() -> None:
    write_json(paths.EVALUATE_METRICS, {"validation": {}, "test": {}, "parameters": 1})


DAMAGE: dict[str, tuple[str, Callable[[], Any]]] = {
    "no curve": ("training.csv: not found", lambda: paths.TRAINING_PLOT.unlink()),
    "no figures": ("evaluate.json: not found; run `gpt evaluate`", lambda: paths.EVALUATE_METRICS.unlink()),
    "other figures": ("evaluate.json.*not as `gpt evaluate` wrote", other_metrics),
    "no samples": ("samples.json: not found; run `gpt evaluate`", lambda: paths.SAMPLES.unlink()),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_missing_is_named_and_the_earlier_report_stays(
    evaluated_project: Path, copy_project: Callable[..., Path], message: str, damage: Callable[[], Any]
) -> None:
    copy_project(evaluated_project)
    paths.REPORTS.mkdir(parents=True)
    (paths.REPORTS / "evaluate.md").write_text("earlier")
    damage()
    with pytest.raises(UserError, match=message):
        write_report(load_params())
    assert (paths.REPORTS / "evaluate.md").read_text() == "earlier"
