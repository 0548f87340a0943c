"""What a fine-tuned version was judged on, kept with it under artifacts/evaluation: its test examples, and what came of each.

And which questions it has learned from, as hashes: so that a later candidate is known to be judged on none of its own lessons.
"""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt.code import stage_identity
from gpt.errors import UserError
from gpt.files import read_json, sha256_json, write_json
from gpt.finetuning.data.examples import Example
from gpt.finetuning.data.prepare import read_lines
from gpt.finetuning.judging.outcomes import AGAIN, Outcomes, name_example, name_question
from gpt.finetuning.places import Places
from gpt.registry.disclosure import check_texts
from gpt.registry.frozen import read_contents, write_contents
from gpt.registry.overview.facts import EVALUATION
from gpt.secrets.hiding import redact_values

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_EXAMPLES, _OUTCOMES, _LEARNED = "examples.jsonl", "outcomes.parquet", "learned.npy"
_REGISTER = "register the model again"
Json = dict[str, Any]


@dataclass(frozen=True)
class JudgedOn:
    folder: Path
    scored_with: str
    "Hash of the code that judged."

    @cached_property
    def examples(self) -> list[Example]:
        return read_lines(self.folder / _EXAMPLES)

    @cached_property
    def outcomes(self) -> Outcomes:
        return Outcomes.read(self.folder / _OUTCOMES, _REGISTER)

    @cached_property
    def evaluation(self) -> Json:
        return read_json(self.folder / EVALUATION, _REGISTER, ["weights_sha256", "task"])

    @cached_property
    def learned(self) -> np.ndarray:
        """Return which questions the model was trained or validated on: sorted, as `_numbers` has them."""
        return np.load(self.folder / _LEARNED, allow_pickle=False)

    def has_learned(self, examples: list[Example]) -> int:
        """Return how many of some examples the model was trained or validated on."""
        return int(np.isin(_numbers(examples), self.learned).sum())


def judging_identity() -> str:
    """Return a hash of the code that outcomes depend on: those of two identities are not compared."""
    return sha256_json(stage_identity("evaluate_finetuned"))


def write_judged_on(places: Places, folder: Path) -> None:
    """Write the folder `evaluation` of a recipe's version; raise `UserError` for outcomes of other examples, or a secret."""
    examples = read_lines(places.data / "test.jsonl")
    outcomes = Outcomes.read(places.outcomes, AGAIN)
    if outcomes.examples != {name_example(example) for example in examples}:
        raise UserError(f"{places.outcomes}: not what came of the examples in {places.data}; {AGAIN}")
    check_texts("test example", ((str(number), str(example)) for number, example in enumerate(examples, start=1)))
    folder.mkdir(parents=True)
    shutil.copyfile(places.data / "test.jsonl", folder / _EXAMPLES)
    shutil.copyfile(places.outcomes, folder / _OUTCOMES)
    write_json(folder / EVALUATION, redact_values(read_json(places.evaluation, AGAIN)))
    learned = [example for split in ("train", "validation") for example in read_lines(places.data / f"{split}.jsonl")]
    np.save(folder / _LEARNED, np.unique(_numbers(learned)), allow_pickle=False)
    write_contents(folder, {"scored_with": judging_identity()})


def read_judged_on(client: "MlflowClient", version: "ModelVersion") -> JudgedOn | None:
    """Return what a version was judged on, None if it does not hold that; raise `UserError` if a file is damaged."""
    found = read_contents(client, version)
    if found is None or not (found[0] / _OUTCOMES).is_file():
        return None
    return JudgedOn(found[0], found[1]["scored_with"])


def _numbers(examples: list[Example]) -> np.ndarray:
    return np.array([int(name_question(example)[:16], 16) for example in examples], np.uint64)
