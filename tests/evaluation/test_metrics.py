"""metrics/evaluate.json: few figures under short names, from which a table of experiments has its columns."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpt.commands.experiments.experiments import _TABLE  # pyright: ignore[reportPrivateUsage] (what users are told)
from gpt.evaluation.metrics import main_figures, measured_by
from gpt.files import read_json, write_json
from gpt.tracking.pages.figures import name_figures
from tests import ROOT

SPLIT = {"bits_per_byte": 2.1, "loss": 3.6, "perplexity": 38.9, "tokens": 85092, "by_position": [{"first": 1}]}
EVALUATION: dict[str, Any] = {
    "test": SPLIT,
    "validation": SPLIT | {"bits_per_byte": 2.2},
    "benchmarks": {
        "piqa": {"accuracy": 0.52, "items": 500, "clean": {"accuracy": 0.5}},
        "test": {"accuracy": 0.1},
    },
    "centred": -0.03,
    "parameters": 2164672,
    "weights_sha256": "0" * 64,
}


def test_main_figures_are_what_models_are_compared_by_and_no_count_or_hash_is_among_them() -> None:
    assert main_figures(EVALUATION) == {
        "test": {"bits_per_byte": 2.1},
        "validation": {"bits_per_byte": 2.2},
        "centred": -0.03,
        "piqa": 0.52,  # and not the benchmark that is called test: its accuracy would hide the split
    }
    assert main_figures(EVALUATION | {"benchmarks": {}, "centred": None}).keys() == {"test", "validation"}


def test_main_figures_are_named_as_all_figures_are() -> None:
    named, all_named = name_figures(measured_by(main_figures(EVALUATION))), name_figures(EVALUATION)
    expected = [
        "test_bits_per_byte",
        "validation_bits_per_byte",
        "piqa.accuracy",
        "benchmarks_centred",
    ]
    assert list(named) == expected
    assert named == {name: all_named[name] for name in expected}


def test_of_an_earlier_release_all_figures_are_read() -> None:
    assert measured_by(EVALUATION) == EVALUATION


def test_the_committed_figures_are_main_figures_alone() -> None:
    figures = read_json(ROOT / "metrics/evaluate.json", "")
    assert figures == main_figures(measured_by(figures)), "nothing else"
    assert [path.name for path in (ROOT / "metrics").glob("*.json")] == ["evaluate.json"], "counts are in data/"


def test_a_table_of_experiments_with_eight_benchmarks_fits_a_terminal_of_200_columns(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    for name in ("dvc.yaml", "params.yaml", "metrics/evaluate.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    git("init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    git("add", "-A")
    git("commit", "-qm", "begin")
    params = (tmp_path / "params.yaml").read_text(encoding="utf-8").replace("max_steps: 1000", "max_steps: 2000")
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    figures = read_json(tmp_path / "metrics/evaluate.json", "")
    changed = json.loads(json.dumps(figures), parse_float=lambda text: float(text) + 0.015625)
    write_json(tmp_path / "metrics/evaluate.json", changed)
    git("add", "-A")
    head = git("rev-parse", "HEAD")
    commit = git("commit-tree", git("write-tree"), "-p", "HEAD", "-m", "an experiment")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/twice-as-long", commit)
    assert "dvc exp show" in _TABLE
    show = [sys.executable, "-m", *shlex.split(_TABLE), "--no-pager"]
    environment = os.environ | {"COLUMNS": "300", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    shown = subprocess.run(show, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert "twice-as-long" in shown
    assert len(figures) == 11
    for name in ("test.bits_per_byte", "validation.bits_per_byte", *list(figures)[2:], "train.max_steps"):
        assert name in shown, "a column of its own"
    assert max(map(len, shown.splitlines())) <= 200
