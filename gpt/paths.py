"""Where things are in a project, relative to its folder. Commands run in that folder, as DVC does."""

import os
from pathlib import Path

INPUTS = Path("data/inputs")
RAW = Path("data/raw")
BENCHMARKS = Path("data/benchmarks")
DOCUMENTS = Path("data/documents")
TOKENS = Path("data/tokens")
TOKENIZER = Path("models/tokenizer")
BASE_MODEL = Path("models/base")
RUN = Path("models/run.json")
PREPARE_METRICS = Path("metrics/prepare.json")
TOKENIZE_METRICS = Path("metrics/tokenize.json")
EVALUATE_METRICS = Path("metrics/evaluate.json")
TRAINING_PLOT = Path("plots/training.csv")
VALIDATION_PLOT = Path("plots/validation.csv")
SAMPLES = Path("reports/samples.json")
REPORTS = Path("reports/evaluate")
DATA_CARD = Path("reports/data.html")
CHECKPOINTS = Path("checkpoints")
SPOOL = Path("spool")


def cache_folder(kind: str) -> Path:
    """Return where this machine keeps what any project may fetch again: GPT_CACHE, else the user's cache folder."""
    base = os.environ.get("GPT_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gpt-pretrain"
    )
    return Path(base, kind)
