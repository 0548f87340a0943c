"""One of the models that `gpt compare` shows side by side, wherever it was found, and which of their figures compare at all."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt.files import as_object
from gpt.params.types import flatten
from gpt.reports.model_page.measured import Measured

Json = dict[str, Any]

# Where a model is computed, not what it is; MLflow has it in tags.
_NO_SETTINGS = ("launch",)
# Tokenizers that are made of the training documents: of other documents comes another one.
_TRAINED = ("bpe", "char")
_OF_DOCUMENTS = ("fetch.", "prepare.")
_NO_MATTER = "prepare.engine."
_PER_TOKEN = tuple(f"{split}_{figure}" for split in ("test", "validation") for figure in ("loss", "perplexity"))


@dataclass(frozen=True)
class Subject:
    """A model that is compared. What nobody knows of it is empty, and `notes` say why."""

    measured: Measured
    "Its name is the one that was typed."
    what: str
    "What that name was taken for: `experiment, commit 571b7b5`."
    figures: Mapping[str, float]
    "By the names that MLflow shows."
    settings: Mapping[str, str]
    "Every key of params.yaml that says what is computed, as text."
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.measured.name

    def all_notes(self) -> list[str]:
        """Return what is missing or must be known, a sentence each."""
        notes = list(self.notes)
        if not self.figures:
            notes.append("no figures: it was not evaluated")
        if not self.measured.training and not self.measured.validation:
            notes.append("no curves")
        return notes


def settings_of(params: Json) -> dict[str, str]:
    """Return the settings of a params.yaml by whole key; of a source counts its hash, as in the params of an MLflow run."""
    flat: dict[str, Any] = {}
    for section, values in params.items():
        if section == "fetch":
            listed = as_object(values).get("sources")
            found = [source for source in listed or () if isinstance(source, dict)]
            flat |= {f"fetch.{source.get('name')}.sha256": source.get("sha256") for source in found}
        elif section not in _NO_SETTINGS:
            flat |= flatten(values, section) if isinstance(values, dict) else {section: values}
    return {key: _text(value) for key, value in flat.items()}


def settings_of_run(params: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of an MLflow run, whose params are Python's texts of `section.key`, as `settings_of` names them."""
    flat: dict[str, Any] = {}
    for key, text in params.items():
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = text
        flat |= flatten(value, key) if isinstance(value, dict) and value else {key: value}
    return {key: _text(value) for key, value in flat.items()}


def _text(value: Any) -> str:
    """Return a value as text, the same for one that was read from YAML and for one that MLflow kept as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def differing_settings(subjects: Sequence[Subject]) -> dict[str, list[str]]:
    """Return the settings of which not all have the same value: the values in the order of the subjects, "none" if it has none."""
    keys = dict.fromkeys(key for subject in subjects for key in subject.settings)
    values = {key: [subject.settings.get(key, "none") for subject in subjects] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def have_one_tokenizer(subjects: Sequence[Subject]) -> bool:
    """Whether loss and perplexity, which are per token, compare: all subjects split text into the same tokens."""
    return all(_same_tokenizer(subjects[0], other) for other in subjects[1:])


def _same_tokenizer(one: Subject, other: Subject) -> bool:
    measured, others = (subject.measured.split("test") for subject in (one, other))
    if measured.get("documents_sha256") and measured.get("documents_sha256") == others.get("documents_sha256"):
        return measured.get("tokens") == others.get("tokens")  # of the same text
    prefixes = ("tokenizer.", *(_OF_DOCUMENTS if one.settings.get("tokenizer.kind") in _TRAINED else ()))
    keys = {key for subject in (one, other) for key in subject.settings if key.startswith(prefixes)}
    return all(
        one.settings.get(key) == other.settings.get(key) for key in keys if not key.startswith(_NO_MATTER)
    )  # fmt: skip


def measured_on_other_documents(subjects: Sequence[Subject]) -> bool:
    """Whether the test documents of two subjects are known to differ: then no figure of them says which model is better."""
    known = {digest for subject in subjects if (digest := subject.measured.split("test").get("documents_sha256"))}
    return len(known) > 1


@dataclass(frozen=True)
class Row:
    """A figure of all subjects."""

    name: str
    better: str
    '"lower", "higher" or, where nobody can say, "".'
    values: tuple[float | None, ...]

    def best(self) -> int | None:
        """Return the place of the best value, None if there is not one alone."""
        known = [value for value in self.values if value is not None]
        if not self.better or len(known) < 2:
            return None
        best = min(known) if self.better == "lower" else max(known)
        return self.values.index(best) if known.count(best) == 1 else None

    def texts(self) -> list[str]:
        """Return the values as people read them, "" where there is none."""
        form = ",.2f" if self.name.endswith("perplexity") else ".4f"
        return ["" if value is None else f"{value:{form}}" for value in self.values]


def rows_of(subjects: Sequence[Subject]) -> list[Row]:
    """Return the figures that any of the subjects has, without those per token if their tokenizers are not one."""
    by_number = sorted(subjects, key=lambda subject: -len(subject.figures))  # who has all has them in their order
    names = dict.fromkeys(name for subject in by_number for name in subject.figures)
    left_out = () if have_one_tokenizer(subjects) else _PER_TOKEN
    return [
        Row(name, _better(name), tuple(subject.figures.get(name) for subject in subjects))
        for name in names
        if name not in left_out
    ]


def _better(name: str) -> str:
    if any(word in name for word in ("bits_per_byte", "loss", "perplexity")):
        return "lower"
    if name.rpartition(".")[2].partition(",")[0] in (
        "accuracy",
        "accuracy_norm",
        "acc",
        "acc_norm",
        "exact_match",
        "f1",
    ):
        return "higher"
    return "higher" if name.endswith("benchmarks_centred") else ""
