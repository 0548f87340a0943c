"""The names under which MLflow shows what a finished model scored.

MLflow groups charts by what stands before a name's last `/`, groups in alphabetical order, and those without one come after them.
A metric is drawn as a curve if a run has it at a step of 1 or later, and as a bar otherwise. So what training tells has names such
as `train/loss` and `validation/loss`, curves that come first, and single figures have no `/` and stand at step 0: bars below them.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

FIGURE_STEP = 0
"Of figures that have no curve."
SPLITS = ("test", "validation")
ALL_ITEMS = "all_items"
# Of validation documents there are curves, which end with the same figures; a version's tag has this one.
_SPLIT_FIGURES = {"test": ("bits_per_byte", "loss", "perplexity"), "validation": ("bits_per_byte",)}
_BENCHMARK_FIGURES = ("accuracy", "accuracy_norm", "bits_per_byte", "perplexity")
MAIN_FIGURES = ("accuracy", "exact_match", "preferred", "bits_per_byte")
"Of fine-tuned models, the most telling one of a model first."
_REFUSED = re.compile(r"[^\w.\- :/]")


def name_figures(evaluation: Json) -> dict[str, float]:
    """Return what reports/evaluate.json holds, by the names that the gate and a version's tags use.

    test_bits_per_byte (and of each source, where there are several: test_bits_per_byte.SOURCE), lambada.accuracy,
    benchmarks_centred. What was not measured, or is not finite, is left out.
    """
    found = {**dict(_splits(evaluation)), **_benchmarks(evaluation, "")}
    for task, values in _mapping(evaluation.get("tasks")).items():
        found |= {f"{task}.{key}": value for key, value in _mapping(values).items()}
    return _sound(found)


def name_all_items(answers: Json) -> dict[str, float]:
    """Return what benchmarks scored on all their items, whatever evaluate.limit: all_items.lambada.accuracy."""
    return _sound(dict(_benchmarks(answers, f"{ALL_ITEMS}.")))


def name_finetuned(evaluation: Json) -> dict[str, float]:
    """Return the figures of a recipe's evaluation.json: test_accuracy, test_exact_match.TASK, floor_accuracy, …."""
    found = {f"test_{figure}": evaluation.get(figure) for figure in (*MAIN_FIGURES, "ended", "loss")}
    for task, values in _mapping(evaluation.get("tasks")).items():
        found[f"test_exact_match.{task}"] = _mapping(values).get("exact_match")
    found["floor_accuracy"] = _mapping(evaluation.get("baseline")).get("accuracy")
    found["floor_bits_per_byte"] = evaluation.get("base_bits_per_byte")
    forgetting = _mapping(evaluation.get("forgetting"))
    if forgetting:
        found["forgotten_bits_per_byte"] = forgetting["after"] - forgetting["before"]
    return _sound(found)


def main_figure(evaluation: Json) -> str:
    """Return the figure by which a person tells fine-tuned models apart, as `accuracy 0.9660`."""
    known = ((name, evaluation.get(name)) for name in MAIN_FIGURES)
    return next((f"{name} {value:.4f}".replace("_", " ") for name, value in known if isinstance(value, float)), "none")


def _splits(evaluation: Json) -> Iterator[tuple[str, Any]]:
    for split in SPLITS:
        figures = _mapping(evaluation.get(split))
        yield from ((f"{split}_{figure}", figures.get(figure)) for figure in _SPLIT_FIGURES[split])
        by_source = _mapping(figures.get("by_source"))
        if len(by_source) > 1:
            for source, values in by_source.items():
                yield f"{split}_bits_per_byte.{source}", _mapping(values).get("bits_per_byte")


def _benchmarks(answers: Json, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}{name}.{figure}": _mapping(scores).get(figure)
        for name, scores in _mapping(answers.get("benchmarks")).items()
        for figure in _BENCHMARK_FIGURES
    } | {f"{prefix}benchmarks_centred": answers.get("centred")}


def _mapping(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _sound(figures: dict[str, Any]) -> dict[str, float]:
    """Return the figures that are finite numbers, under names that MLflow takes."""
    return {
        _REFUSED.sub("_", name): float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
