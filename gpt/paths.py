"""Where things are in a project, relative to its folder. Commands run in that folder, wherever in it they were started."""

import logging
import os
import pwd
from pathlib import Path

from gpt.errors import UserError

RECIPES = Path("finetuning")
SWEEPS = Path("sweeps")
SWEEP_STATE = Path(".cache/sweeps")
SWEEP_PAGES = Path("reports/sweeps")
INPUTS = Path("data/inputs")
MANIFESTS = Path("data/manifests")
RAW = Path("data/raw")
BENCHMARKS = Path("data/benchmarks")
DOCUMENTS = Path("data/documents")
TOKENS = Path("data/tokens")
TOKENIZER = Path("models/tokenizer")
INITIAL = Path("models/initial")
INITIAL_SOURCE = "source.json"  # in it
BASE_MODEL = Path("models/base")
RUN = Path("models/run.json")
PREPARE_COUNTS = Path("data/prepare.json")
TOKENIZE_COUNTS = Path("data/tokenize.json")
EVALUATION = Path("reports/evaluate.json")
METRICS = Path("metrics/evaluate.json")
TRAINING_PLOT = Path("plots/training.csv")
VALIDATION_PLOT = Path("plots/validation.csv")
SAMPLES = Path("reports/samples.json")
ATTENTION = Path("reports/attention.json")
SCORES = Path("reports/scores")
REPORTS = Path("reports/evaluate")
COMPARISON = Path("reports/comparison")
COMPARE = Path("reports/compare")
DATA_CARD = Path("reports/data.html")
CHECKPOINTS = Path("checkpoints")
LOGS = Path("logs")
SPOOL = Path("spool")
DATABASE = Path("mlflow.db")

# Where `dvc exp run --temp` and `--queue` make the copies of a project that they run in, and delete afterwards.
EXPERIMENTS = Path(".dvc/tmp/exps")

logger = logging.getLogger(__name__)


def main_project() -> Path:
    """Return the folder of the project: of a copy that DVC runs an experiment in, the one that it is a copy of.

    DVC names that in DVC_ROOT. Anything else it may say, such as the project whose stage calls a command of another, is no
    copy's.
    """
    here, root = Path.cwd(), os.environ.get("DVC_ROOT")
    return Path(root) if root and Path(root, EXPERIMENTS).resolve() in here.parents else here


def kept(path: Path) -> Path:
    """Return where what outlives a run lies: checkpoints, the spool, the store. Relative, but for an experiment's copy."""
    main = main_project()
    return path if main == Path.cwd() else main / path


def find_project(folder: Path) -> Path | None:
    """Return the nearest folder with a params.yaml, from an absolute one upwards; None if there is none.

    What lies above a DVC repository is another project, but for the recipes of fine-tuning, which have one of their own.
    """
    for candidate in (folder, *folder.parents):
        if os.path.lexists(candidate / "params.yaml"):
            return candidate
        if (candidate / ".dvc").is_dir() and candidate.name != RECIPES.name:
            return None
    return None


def current_folder() -> Path:
    """Return where the user stands; raise `UserError` if that folder was removed meanwhile."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UserError("the current folder does not exist any more; go to another one") from None


def enter_project() -> None:
    """Go to the folder of the project that the current one lies in; stay if it lies in none."""
    here = current_folder()
    project = find_project(here)
    if project and project != here:
        os.chdir(project)
        os.environ["PWD"] = str(project)  # what we start may believe it


def from_here(path: str) -> Path:
    """Return a path as it was typed, for use in the project's folder: it means what it means where the user stands."""
    here = current_folder()
    return Path(path) if find_project(here) in (here, None) else here / path


def ensure_user() -> None:
    """Leave HOME naming a folder and USER a name, as libraries and DVC fail without: as a container may run us.

    They are those of the user's entry; for a user who has none, `.cache/home` in this folder, which is told, and the number.
    """
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        entry = None
    if entry is None and not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["LOGNAME"] = os.environ["USER"] = str(os.getuid())
    if Path(os.environ.get("HOME", "")).is_absolute():
        return
    if entry:
        os.environ["HOME"] = entry.pw_dir
        return
    os.environ["HOME"] = str(current_folder() / ".cache" / "home")
    logger.warning("HOME is not set, and user %d has none; %s stands in for it", os.getuid(), os.environ["HOME"])


def why_unwritable(folder: Path) -> str | None:
    """Return why files cannot be made in a folder, which need not exist yet; None if they can. It only looks."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        return f"{existing} is no folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} is not writable"


def make_writable(folder: Path) -> str | None:
    """Make a folder if it does not exist; return why files cannot be made in it, None if they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return why_unwritable(folder) or f"{folder}: {error.strerror}"
    return why_unwritable(folder)


def cache_folder(kind: str) -> Path:
    """Return where this machine keeps what any project may fetch again: GPT_CACHE, else the user's cache folder.

    Where the user has none that can be written, `.cache` in this folder stands in for it, which is told. Raises `UserError`
    if GPT_CACHE itself cannot be written.
    """
    if named := os.environ.get("GPT_CACHE"):
        if reason := make_writable(Path(named, kind)):
            raise UserError(f"GPT_CACHE = {named!r}: {reason}; name a folder that can be written, or unset it")
        return Path(named, kind)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # then the specification says to ignore it
        ensure_user()
        base = Path.home() / ".cache"
    folder = base / "gpt-pretrain" / kind
    if reason := make_writable(folder):
        folder = current_folder() / ".cache" / "gpt-pretrain" / kind
        logger.warning("%s; %s keeps what is fetched (GPT_CACHE names another place)", reason, folder)
        folder.mkdir(parents=True, exist_ok=True)
    return folder
