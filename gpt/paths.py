"""Where things are in a project, relative to its folder. Commands run in that folder, as DVC does."""

from pathlib import Path

RAW = Path("data/raw")
DOCUMENTS = Path("data/documents")
TOKENS = Path("data/tokens")
TOKENIZER = Path("models/tokenizer")
BASE_MODEL = Path("models/base")
RUN = Path("models/run.json")
PREPARE_METRICS = Path("metrics/prepare.json")
EVALUATE_METRICS = Path("metrics/evaluate.json")
TRAINING_PLOT = Path("plots/training.csv")
REPORTS = Path("reports")
CHECKPOINTS = Path("checkpoints")
SPOOL = Path("spool")
