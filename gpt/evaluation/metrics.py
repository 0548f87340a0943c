"""What `dvc exp show` and `dvc metrics diff` tell of a model: the few figures that people compare models by.

A table of experiments has a column for each figure under its whole name, so there are few, and their names are short: a benchmark's
own name stands for its accuracy. Everything that was measured is in reports/evaluate.json.
"""

from collections.abc import Mapping
from typing import Any

_SPLITS = ("test", "validation")
_BITS_PER_BYTE, _CENTRED = "bits_per_byte", "centred"
_RESERVED = {*_SPLITS, _CENTRED}


def main_figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return of reports/evaluate.json what metrics/evaluate.json holds.

    Bits per byte of the held-out splits, the centred score over the benchmarks, and each benchmark's accuracy under its name. What
    was not measured is left out, and so is a benchmark that bears one of the other names.
    """
    figures: dict[str, Any] = {split: {_BITS_PER_BYTE: evaluation[split][_BITS_PER_BYTE]} for split in _SPLITS}
    if evaluation.get(_CENTRED) is not None:
        figures[_CENTRED] = evaluation[_CENTRED]
    benchmarks = evaluation.get("benchmarks", {})
    return figures | {name: each["accuracy"] for name, each in benchmarks.items() if name not in _RESERVED}


def measured_by(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return main figures in the form of reports/evaluate.json, which has more of them.

    An earlier release wrote all figures to metrics/evaluate.json: those are returned as they are.
    """
    if isinstance(figures.get("benchmarks"), Mapping):
        return dict(figures)
    named = {name: value for name, value in figures.items() if name not in _RESERVED}
    return {
        **{name: value for name, value in figures.items() if name in _RESERVED},
        "benchmarks": {name: {"accuracy": value} for name, value in named.items()},
    }
