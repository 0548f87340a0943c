"""What the evaluation's page knows of one model: from the outputs of a project, or from the files that a version keeps."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.held_out import HELD_OUT
from gpt.files import as_object, lenient_json, lenient_yaml, not_found, read_json
from gpt.params.project import PARAMS_FILE, Params
from gpt.training.checkpoints.fingerprint import WITHOUT_EFFECT

Json = dict[str, Any]
Columns = dict[str, list[float]]
"Of a CSV file, by the names in its head."

_AGAIN = {"evaluate": "run `gpt evaluate` again", "pretrain": "run `gpt pretrain` again"}
_SHOWN = (
    "tokenizer",
    "tokenize",
    "model",
    "train",
)  # besides base.seed: what decides the weights, once there are documents


@dataclass(frozen=True)
class Measured:
    """A model; what is empty is not known of it, and the page leaves it out."""

    name: str
    "What the page calls it where another one stands beside it."
    evaluation: Json = field(default_factory=dict)
    "reports/evaluate.json."
    samples: list[Json] = field(default_factory=list)
    "reports/samples.json."
    attention: Json = field(default_factory=dict)
    "reports/attention.json."
    training: Columns = field(default_factory=dict)
    "plots/training.csv."
    validation: Columns = field(default_factory=dict)
    "plots/validation.csv."
    params: Json = field(default_factory=dict)
    "Sections of params.yaml."
    tokens: Json = field(default_factory=dict)
    "data/tokenize.json."
    contamination: Json = field(default_factory=dict)
    "Of data/prepare.json."
    throughput: tuple[tuple[int, float], ...] = ()
    "Step and tokens per second: a stopwatch's, so no stage's output has it."
    facts: Mapping[str, str] = field(default_factory=dict)
    "Further things to tell by name: commit, hardware, when it was registered."
    lineage: Json = field(default_factory=dict)
    "Its record (gpt/registry/record.py)."

    def split(self, name: str) -> Json:
        """Return the figures of a held-out split, nothing if it was not measured."""
        return as_object(self.evaluation.get(name))

    @property
    def benchmarks(self) -> dict[str, Json]:
        return {name: figures for name, figures in as_object(self.evaluation.get("benchmarks")).items() if figures}

    def section(self, name: str) -> Json:
        """Return a section of its params.yaml, nothing if it is not known."""
        return as_object(self.params.get(name))

    def tokens_seen(self) -> int | None:
        """Return of how many tokens it was trained, repetitions included; None if that is not known."""
        steps, batch = self.section("train").get("max_steps"), self.section("train").get("batch_size")
        length = self.section("model").get("block_size")
        return steps * batch * length if steps and batch and length else None

    def median_throughput(self) -> int | None:
        """Return its training's tokens per second, None if nobody has measured them."""
        return round(statistics.median(rate for _, rate in self.throughput)) if self.throughput else None

    def settings(self) -> Json:
        """Return the settings that decide its weights, by section."""
        shown = {name: self.section(name) for name in _SHOWN}
        shown["train"] = {key: value for key, value in shown["train"].items() if key not in WITHOUT_EFFECT}
        return {"base": {key: self.section("base")[key] for key in ("seed",) if key in self.section("base")}} | shown


def of_project(params: Params) -> Measured:
    """Return what is known of the project's model; raise `UserError` if an output is missing or not as its stage wrote it."""
    evaluation = read_json(paths.EVALUATION, _AGAIN["evaluate"], (*HELD_OUT, "parameters"))
    prepared = read_json(paths.PREPARE_COUNTS, "run `gpt prepare` again", ("contamination",))
    samples = read_json(paths.SAMPLES, _AGAIN["evaluate"])
    if not isinstance(samples, list):
        raise UserError(f"{paths.SAMPLES}: not as `gpt evaluate` wrote it; {_AGAIN['evaluate']}")
    return Measured(
        name="this model",
        evaluation=evaluation,
        samples=samples,
        attention=read_json(paths.ATTENTION, _AGAIN["evaluate"], ("tokens", "maps")),
        training=read_columns(paths.TRAINING_PLOT, ("step", "train_loss")),
        validation=read_columns(paths.VALIDATION_PLOT, ("step", "validation_loss")),
        params={
            name: params.section(name)
            for name in ("base", "fetch", "tokenizer", "tokenize", "model", "train", "evaluate")
        },
        tokens=read_json(paths.TOKENIZE_COUNTS, "run `gpt tokenize` again", ("train", *HELD_OUT)),
        contamination=prepared["contamination"],
    )


def of_files(
    name: str,
    files: Mapping[str, bytes],
    *,
    throughput: Iterable[tuple[int, float]] = (),
    facts: Mapping[str, str] | None = None,
    lineage: Json | None = None,
) -> Measured:
    """Return what the files of a version tell, by their names: evaluate.json, samples.json, training.csv, params.yaml, ….

    An earlier release kept fewer, or other forms: what is missing or cannot be read is not known.
    """

    def load(path: Path, kind: type) -> Any:
        return lenient_json(files.get(path.name, b""), kind)

    return Measured(
        name=name,
        evaluation=load(paths.EVALUATION, dict),
        samples=load(paths.SAMPLES, list),
        attention=load(paths.ATTENTION, dict),
        training=_tolerant_columns(files.get(paths.TRAINING_PLOT.name, b"")),
        validation=_tolerant_columns(files.get(paths.VALIDATION_PLOT.name, b"")),
        params=lenient_yaml(files.get(PARAMS_FILE.name, b"")),
        tokens=load(paths.TOKENIZE_COUNTS, dict),
        contamination=as_object(load(paths.PREPARE_COUNTS, dict).get("contamination")),
        throughput=tuple((int(step), float(rate)) for step, rate in throughput),
        facts=dict(facts or {}),
        lineage=lineage or {},
    )


def read_columns(path: Path, needed: Iterable[str]) -> Columns:
    """Return the columns of a curve that training wrote; raise `UserError` if it is missing or damaged."""
    try:
        columns = parse_columns(path.read_bytes())
    except FileNotFoundError:
        raise not_found(path, _AGAIN["pretrain"]) from None
    except (TypeError, ValueError):
        columns = {}
    if any(name not in columns for name in needed):
        raise UserError(f"{path}: is not as `gpt pretrain` wrote it; {_AGAIN['pretrain']}")
    return columns


def parse_columns(content: bytes) -> Columns:
    """Return the columns of a CSV file of numbers with a head; raise `ValueError` or `TypeError` if it is none."""
    reader = csv.DictReader(io.StringIO(content.decode()))
    rows = list(reader)
    columns = {name: [float(row[name]) for row in rows] for name in reader.fieldnames or ()}
    if not all(step.is_integer() for step in columns.get("step", ())):
        raise ValueError("a step is no whole number")
    return columns


def _tolerant_columns(content: bytes) -> Columns:
    try:
        return parse_columns(content)
    except (TypeError, ValueError):
        return {}


def wilson(share: float, count: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a share of `count` items (Wilson 1927): it has a width at 0 and 1 too. None without items."""
    if count < 1:
        return None
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)
