"""metrics/evaluate.json: few figures under short names, from which a table of experiments has its columns."""

from typing import Any

from gpt.evaluation.metrics import main_figures, measured_by
from gpt.files import read_json
from gpt.tracking.pages.figures import name_figures
from tests.conftest import ROOT

SPLIT = {"bits_per_byte": 2.1, "loss": 3.6, "perplexity": 38.9, "tokens": 85092, "by_position": [{"first": 1}]}
EVALUATION: dict[str, Any] = {
    "test": SPLIT,
    "validation": SPLIT | {"bits_per_byte": 2.2},
    "benchmarks": {
        "piqa": {"accuracy": 0.52, "items": 500, "clean": {"accuracy": 0.5}},
        "test": {"accuracy": 0.1},
    },
    "centred": -0.03,
    "parameters": 2164672,
    "weights_sha256": "0" * 64,
}


def test_main_figures_are_what_models_are_compared_by_and_no_count_or_hash_is_among_them() -> None:
    assert main_figures(EVALUATION) == {
        "test": {"bits_per_byte": 2.1},
        "validation": {"bits_per_byte": 2.2},
        "centred": -0.03,
        "piqa": 0.52,  # and not the benchmark that is called test: its accuracy would hide the split
    }
    assert main_figures(EVALUATION | {"benchmarks": {}, "centred": None}).keys() == {"test", "validation"}


def test_main_figures_are_named_as_all_figures_are() -> None:
    named, all_named = name_figures(measured_by(main_figures(EVALUATION))), name_figures(EVALUATION)
    expected = [
        "test_bits_per_byte",
        "validation_bits_per_byte",
        "piqa.accuracy",
        "benchmarks_centred",
    ]
    assert list(named) == expected
    assert named == {name: all_named[name] for name in expected}


def test_of_an_earlier_release_all_figures_are_read() -> None:
    assert measured_by(EVALUATION) == EVALUATION


def test_the_committed_figures_are_main_figures_alone() -> None:
    figures = read_json(ROOT / "metrics/evaluate.json", "")
    assert figures == main_figures(measured_by(figures)), "nothing else"
    assert [path.name for path in (ROOT / "metrics").glob("*.json")] == ["evaluate.json"], "counts are in data/"
