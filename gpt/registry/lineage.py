"""What a registered version was made from, so that it can be made again: code, settings, data, weights, machine.

Read from the project when a model is registered, after checking that its pieces belong together. What people search versions by
becomes tags (`Lineage.tags`); all of it is the record that gpt/registry/record.py writes and reads.
"""

import hashlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

import gpt
from gpt import paths
from gpt.errors import UserError
from gpt.files import parse_yaml, read_json, sha256_file, sha256_json, sha256_tree
from gpt.params.project import PARAMS_FILE, Params, load_params
from gpt.registry.disclosure import PATCH, check_uploads
from gpt.registry.git import read_code
from gpt.secrets.hiding import redact_values
from gpt.tokens.shards import data_id, read_index
from gpt.tokens.tokenizer import tokenizer_id
from gpt.tracking.dataset import describe_contamination

DVC_LOCK = Path("dvc.lock")
REQUIREMENTS_LOCK = Path("requirements.lock")
NONE = "none"
SEARCHED = (
    "git_commit", "git_dirty", "params_sha256", "data_sha256", "test_documents_sha256", "contaminated_items",
    "weights_sha256", "model_sha256", "fingerprint", "precision", "hardware", "num_processes",
)  # fmt: skip
"What a version is found by, and what tells whether it is the same as another: tags. The rest is in the record alone."
STARTED_FROM = "started_from"
"Tag of a version that was trained from other weights: the version, or the folder, that they are of."
CONTINUES = "continues"
"Tag of a version whose run began with another's state before the decay."
_CURVES = (paths.TRAINING_PLOT, paths.VALIDATION_PLOT)
_AGAIN = "run `dvc repro` (or `gpt evaluate`) first"


@dataclass(frozen=True)
class Lineage:
    """Hashes are SHA-256 in hexadecimal; what a project does not have is "none"."""

    git_commit: str
    git_dirty: bool
    "The files differ from the commit by `uncommitted.patch`."
    code_sha256: str
    "Of the installed gpt package's source, which a project outside the repository uses too."
    params_sha256: str
    "Of params.yaml's values without `launch`, which does not decide the result."
    data_sha256: str
    test_documents_sha256: str
    validation_documents_sha256: str
    contaminated_items: str
    "Of each benchmark and split: items that training documents had a passage of, of how many; and what was done about it."
    tokenizer_sha256: str
    weights_sha256: str
    model_sha256: str
    "Of models/base as a whole: weights, configuration and tokenizer."
    dvc_lock_sha256: str
    dvc_lock_matches: bool
    "dvc.lock records this very evaluation, so it is the lock of this model."
    requirements_lock_sha256: str
    precision: str
    "train.precision, of forward and backward passes; weights are fp32."
    hardware: str
    num_processes: int
    fingerprint: str
    "Of the training: what its result depends on, as checkpoints are named by it."
    python: str
    gpt: str
    adoptions: list[dict[str, Any]] = field(repr=False)
    "Runs whose checkpoints it continued by `--adopt`, as models/run.json has them: its settings alone do not reproduce it."
    parent: dict[str, Any] | None
    "The run whose state before the decay it began with, if it did, as models/run.json has it: fingerprint, step, run."
    initial: dict[str, Any]
    "The weights that it started from, as models/initial/source.json has them; empty where they were drawn."
    inputs: dict[str, Any] = field(repr=False)
    "What `gpt inputs` wrote for each stage: its code by file, versions of its libraries, what it fetches."
    files: dict[str, bytes] = field(repr=False)
    "Name to content: params.yaml, the locks, the evaluation, the curves, the patch."

    def tags(self) -> dict[str, str]:
        """Return what versions are searched by, as tags of a version."""
        values = {name: getattr(self, name) for name in SEARCHED}
        texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
        if self.initial:
            texts[STARTED_FROM] = self.initial.get("uri") or self.initial["init_from"]
        if self.parent:
            texts[CONTINUES] = f"{self.parent['fingerprint']} from step {self.parent['step']}"
        return redact_values(texts)


def collect(project: Path) -> Lineage:
    """Return the lineage of the project's model.

    Raises `UserError` if a piece is missing or holds a secret, or the model, its evaluation, its data and params.yaml are
    not of one run.
    """
    params = load_params(project / PARAMS_FILE)
    base = project / paths.BASE_MODEL
    weights = hash_of(base / "model.safetensors", "run `gpt pretrain` first")
    evaluation = read_evaluation(project)
    if evaluation.get("weights_sha256") != weights:
        raise UserError(f"{project / paths.EVALUATION}: measured other weights than {base} has; {_AGAIN}")
    run = read_json(
        project / paths.RUN, "run `gpt pretrain` first", ["fingerprint", "num_processes", "hardware", "data_sha256"]
    )
    index = read_index(project / paths.TOKENS)
    tokenizer = tokenizer_id(base / "tokenizer")
    _check_data(project, index, evaluation, tokenizer, run)
    _check_config(project, params)
    lock_matches = _check_lock(project)
    code = read_code(project)
    files = {
        path.name: (project / path).read_bytes()
        for path in (PARAMS_FILE, DVC_LOCK, REQUIREMENTS_LOCK, paths.EVALUATION, *_CURVES)
        if (project / path).exists()
    }
    if code.dirty:
        files[PATCH] = code.patch
    check_uploads(files)
    return Lineage(
        git_commit=code.commit,
        git_dirty=code.dirty,
        code_sha256=code_hash(),
        params_sha256=params_hash(params),
        data_sha256=data_id(project / paths.TOKENS),
        test_documents_sha256=evaluation["test"]["documents_sha256"],
        validation_documents_sha256=evaluation["validation"]["documents_sha256"],
        contaminated_items=describe_contamination(project / paths.DOCUMENTS, project / paths.TOKENS) or NONE,
        tokenizer_sha256=tokenizer,
        weights_sha256=weights,
        model_sha256=sha256_tree(base),
        dvc_lock_sha256=hash_of(project / DVC_LOCK),
        dvc_lock_matches=lock_matches,
        requirements_lock_sha256=hash_of(project / REQUIREMENTS_LOCK),
        precision=params.train.precision,
        hardware=run["hardware"],
        num_processes=run["num_processes"],
        fingerprint=run["fingerprint"],
        python=platform.python_version(),
        gpt=gpt.__version__,
        adoptions=run.get("adopted", []),
        parent=run.get("parent"),
        initial=run.get("initial", {}),
        inputs={path.stem: read_json(path, _AGAIN) for path in sorted((project / paths.INPUTS).glob("*.json"))},
        files=files,
    )


def read_evaluation(project: Path) -> dict[str, Any]:
    """Return reports/evaluate.json; raise `UserError` if it is missing or not what `gpt evaluate` writes."""
    path = project / paths.EVALUATION
    evaluation = read_json(path, _AGAIN)
    try:
        complete = all(
            isinstance(evaluation[split]["bits_per_byte"], float)
            and isinstance(evaluation[split]["documents_sha256"], str)
            for split in ("validation", "test")
        )
    except (KeyError, TypeError):
        complete = False
    if not complete:
        raise UserError(f"{path}: has no figures of the validation and test splits; {_AGAIN}")
    return evaluation


def params_hash(params: Params) -> str:
    """Return the hash of the settings that decide the result: not of licences, nor of order and comments in the file."""
    values = params.model_dump(mode="json", by_alias=True)
    del values["launch"], values["register"]
    for source in (*values["fetch"]["sources"], *values["fetch"]["benchmarks"]):
        del source["licence"]
    return sha256_json(values)


def _check_data(
    project: Path, index: dict[str, Any], evaluation: dict[str, Any], tokenizer: str, run: dict[str, Any]
) -> None:
    folder = project / paths.TOKENS
    if index["tokenizer_id"] != tokenizer:
        raise UserError(f"{folder}: made with another tokenizer than {project / paths.BASE_MODEL} has; {_AGAIN}")
    for split in ("validation", "test"):
        whole, measured = index["splits"][split], evaluation[split]
        # With evaluate.max_tokens the hash is that of a part: gpt/registry/frozen.py compares it with the documents.
        of_a_part = measured.get("split_documents") == whole["documents"] and measured["documents"] < whole["documents"]
        if not of_a_part and whole["documents_sha256"] != measured["documents_sha256"]:
            raise UserError(f"{folder}: holds other {split} documents than the model was measured on; {_AGAIN}")
    if run["data_sha256"] != data_id(folder):
        raise UserError(f"{folder}: not the data that the model was trained on; run `dvc repro` first")


def _check_config(project: Path, params: Params) -> None:
    path = project / paths.BASE_MODEL / "config.json"
    config = read_json(path, "run `gpt pretrain` first")
    for key, value in params.section("model").items():
        if config.get(key) != value:
            raise UserError(
                f"{PARAMS_FILE}: model.{key} is {value}, but {path} has {config.get(key)};"
                " run `dvc repro`, or put the value back"
            )


def _check_lock(project: Path) -> bool:
    """Return whether dvc.lock records the evaluation at hand; then its params must be those of params.yaml."""
    path = project / DVC_LOCK
    try:
        lock = parse_yaml(path.read_text(encoding="utf-8"))
        stages = lock["stages"]
        recorded = {out["path"]: out.get("md5") for out in stages["evaluate"]["outs"]}
        made_with = dict(_locked_params(stages))
    except (FileNotFoundError, KeyError, TypeError):
        return False
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}); restore it with git") from None
    evaluation = (project / paths.EVALUATION).read_bytes()
    if recorded.get(paths.EVALUATION.as_posix()) != hashlib.md5(evaluation, usedforsecurity=False).hexdigest():
        return False
    values = parse_yaml((project / PARAMS_FILE).read_text(encoding="utf-8"))
    for key, value in made_with.items():
        found: Any = values
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != value:
            raise UserError(
                f"{PARAMS_FILE}: {key} is not what the model was made with ({DVC_LOCK});"
                " run `dvc repro`, or put the value back"
            )
    return True


def _locked_params(stages: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for stage in stages.values():
        yield from stage.get("params", {}).get(PARAMS_FILE.as_posix(), {}).items()


def hash_of(path: Path, hint: str | None = None) -> str:
    """Return the hash of a file; of one that is not there "none", or a `UserError` with what to do."""
    try:
        return sha256_file(path)
    except FileNotFoundError:
        if hint is None:
            return NONE
        raise UserError(f"{path}: not found; {hint}") from None


def code_hash() -> str:
    """Return a hash of the installed package's source."""
    package = Path(gpt.__file__).parent
    return sha256_json({path.relative_to(package).as_posix(): sha256_file(path) for path in package.rglob("*.py")})
