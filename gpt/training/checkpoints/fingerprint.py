"""What a run's result depends on, by name, and the hash of it all: the same resumes, another starts fresh and says what differs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt import code, paths
from gpt.files import sha256_json, write_json
from gpt.params.project import Params
from gpt.tokens.mixture import seen_by
from gpt.tokens.shards import data_id
from gpt.tokens.tokenizer import tokenizer_id

# These decide when something is written down, or whether training begins, not what the weights are, unless training goes back
# to it.
WITHOUT_EFFECT = (
    "benchmark_interval",
    "checkpoint_interval",
    "checkpoint_keep_every",
    "checkpoint_keep_last",
    "max_epochs",
    "sample_interval",
)
_FILE = "fingerprint.json"


@dataclass(frozen=True)
class Fingerprint:
    """`parts` are JSON values: settings by key, inputs by path, code by file, versions by library."""

    name: str
    "Of the experiment; decides nothing."
    parts: dict[str, dict[str, Any]]

    @property
    def id(self) -> str:
        """The name of the run's checkpoint folder: 16 hexadecimal digits."""
        return sha256_json(self.parts)[:16]

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint folder, for a later run to say what differs."""
        if not (folder / _FILE).exists():
            write_json(folder / _FILE, {"name": self.name, "parts": self.parts})


def fingerprint(params: Params) -> Fingerprint:
    """Return the fingerprint of training with these settings, the project's data and tokenizer, and the code that is installed.

    Raises `UserError` if there are no data or there is no tokenizer.
    """
    settings = {f"model.{key}": value for key, value in params.section("model").items()}
    settings |= {f"train.{key}": value for key, value in params.section("train").items() if key not in WITHOUT_EFFECT}
    settings["train.mixture"] = seen_by(params.train.mixture, params.train.max_steps)
    parts = {
        "settings": settings | {"base.seed": params.base.seed},
        "inputs": {
            paths.TOKENS.as_posix(): data_id(paths.TOKENS),
            paths.TOKENIZER.as_posix(): tokenizer_id(paths.TOKENIZER),
        },
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


def describe_differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Return what differs between two runs, a line each: settings with both values, inputs, code files, versions."""
    return code.describe_differences(before.parts, now.parts)
