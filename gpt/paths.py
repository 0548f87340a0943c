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
DATABASE = Path("mlflow.db")

# Where `dvc exp run --temp` and `--queue` make the copies of a project that they run in, and delete afterwards.
_EXPERIMENTS = Path(".dvc/tmp/exps")


def main_project() -> Path:
    """Return the folder of the project: of a copy that DVC runs an experiment in, the one that it is a copy of.

    DVC names that in DVC_ROOT. Anything else it may say, such as the project whose stage calls a command of another, is no
    copy's.
    """
    here, root = Path.cwd(), os.environ.get("DVC_ROOT")
    return Path(root) if root and Path(root, _EXPERIMENTS).resolve() in here.parents else here


def kept(path: Path) -> Path:
    """Return where what outlives a run lies: checkpoints, the spool, the store. Relative, but for an experiment's copy."""
    main = main_project()
    return path if main == Path.cwd() else main / path


def cache_folder(kind: str) -> Path:
    """Return where this machine keeps what any project may fetch again: GPT_CACHE, else the user's cache folder."""
    base = os.environ.get("GPT_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gpt-pretrain"
    )
    return Path(base, kind)
