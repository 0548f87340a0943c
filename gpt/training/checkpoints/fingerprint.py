"""What a run's result depends on, by name, and the hash of it all: the same resumes, another starts fresh and says what differs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt import code, paths
from gpt.files import sha256_json, write_json
from gpt.params.project import Params
from gpt.params.training import SCRATCH
from gpt.tokens.mixture import seen_by
from gpt.tokens.shards import data_id
from gpt.tokens.tokenizer import tokenizer_id
from gpt.training.initial import initial_id

# These decide when something is written down, or whether training begins, not what the weights are, unless training goes back
# to it.
WITHOUT_EFFECT = (
    "benchmark_interval",
    "checkpoint_interval",
    "checkpoint_keep_every",
    "checkpoint_keep_last",
    "checkpoint_keep_stable",
    "max_epochs",
    "sample_interval",
)
# Ways to name the weights that a run starts from, which count by their bytes.
BY_CONTENT = ("init_from", "init_optimizer")
# What decides when a run on wsd ends and how it falls, and nothing before. Warm-up counts in steps.
_OF_THE_END = ("max_steps", "decay_fraction", "min_lr", "warmup_fraction", "warmup_steps")
_FILE = "fingerprint.json"

Parts = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Fingerprint:
    """`parts` are JSON values: settings by key, inputs by path, code by file, versions by library."""

    name: str
    "Of the experiment; decides nothing."
    parts: Parts

    @property
    def id(self) -> str:
        """The name of the run's checkpoint folder: 16 hexadecimal digits."""
        return sha256_json(self.parts)[:16]

    def until(self, step: int) -> Parts:
        """Return what decides the first `step` steps of a run on wsd that falls later: equal parts are equal states after them."""
        settings = self.parts["settings"]
        kept = {key: value for key, value in settings.items() if key.removeprefix("train.") not in _OF_THE_END}
        # What another release did not write down differs, and is no error.
        warmup = settings.get("train.warmup_steps") or round(
            settings.get("train.warmup_fraction", 0.0) * settings.get("train.max_steps", 0)
        )
        begun = [phase for phase in settings.get("train.mixture", []) if phase["from_step"] < step]
        return self.parts | {"settings": kept | {"train.warmup_steps": warmup, "train.mixture": begun}}

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint folder, for a later run to say what differs."""
        if not (folder / _FILE).exists():
            write_json(folder / _FILE, {"name": self.name, "parts": self.parts})


def fingerprint(params: Params) -> Fingerprint:
    """Return the fingerprint of training with these settings, the project's data and tokenizer, and the code that is installed.

    Raises `UserError` if there are no data or there is no tokenizer.
    """
    settings = {f"model.{key}": value for key, value in params.section("model").items()}
    settings |= {
        f"train.{key}": value
        for key, value in params.section("train").items()
        if key not in WITHOUT_EFFECT + BY_CONTENT
    }
    settings["train.mixture"] = seen_by(params.train.mixture, params.train.max_steps)
    inputs = {
        paths.TOKENS.as_posix(): data_id(paths.TOKENS),
        paths.TOKENIZER.as_posix(): tokenizer_id(paths.TOKENIZER),
    }
    if params.train.init_from != SCRATCH:
        inputs[paths.INITIAL.as_posix()] = initial_id(params.train, paths.INITIAL)
    parts = {
        "settings": settings | {"base.seed": params.base.seed},
        "inputs": inputs,
        **code.stage_identity("pretrain"),
    }
    return Fingerprint(params.base.name, parts)


def load_fingerprint(folder: Path) -> Fingerprint | None:
    """Return the fingerprint of the run in a checkpoint folder, None if it was not written down whole."""
    try:
        value = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return Fingerprint(value["name"], value["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe_differences(before: Fingerprint, now: Fingerprint, step: int | None = None) -> list[str]:
    """Return what differs between two runs, a line each: settings with both values, inputs, code files, versions.

    With `step` only what decides their first steps counts, as `Fingerprint.until` says.
    """
    if step is None:
        return code.describe_differences(before.parts, now.parts)
    return code.describe_differences(before.until(step), now.until(step))
