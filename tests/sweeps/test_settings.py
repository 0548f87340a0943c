"""A sweep's file is one clear error before anything runs, or every value in it is one that params.yaml takes."""

from collections.abc import Callable
from typing import Any

import pytest

from gpt.commands.main import main
from gpt.errors import UserError
from gpt.sweeps.settings import CURVES, load_sweep
from gpt.training.state import VALIDATION_COLUMNS
from tests import ROOT
from tests.sweeps.conftest import Make

RATE = "train.learning_rate"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parameters": {"train.learning_rat": {"values": [1.0]}}},
         "parameters: train.learning_rat is not a known key; did you mean train.learning_rate"),
        ({"parameters": {"train": {"values": [1]}}},
         "parameters: train: is a section; name one of its keys, such as train.init_from"),
        ({"parameters": {RATE: {"values": [0.1, -1.0]}}}, "parameters: train.learning_rate = -1.0: input should be greater than"),
        ({"parameters": {RATE: {"low": -1.0, "high": 1.0}}}, "parameters: train.learning_rate = -1.0"),
        ({"parameters": {RATE: {"low": 1.0, "high": 0.1}}}, "low (1) must be less than high (0.1)"),
        ({"parameters": {RATE: {"low": 0.0, "high": 0.1, "log": True}}}, "low must be above 0"),
        ({"parameters": {RATE: {"low": 0.1}}}, "needs either `values`, a list, or both `low` and `high`"),
        ({"parameters": {RATE: {"values": [0.1], "low": 0.1, "high": 0.2}}}, "needs either `values`, a list, or both"),
        ({"parameters": {RATE: {"values": [0.1, 0.1]}}}, "none twice"),
        ({"parameters": {"model.norm": {"values": ["rmsnorm", "batchnorm"]}}}, "parameters: model.norm = 'batchnorm'"),
        ({"parameters": {"model.n_head": {"low": 0, "high": 4}}}, "parameters: model.n_head = 0"),
        ({"parameters": {"launch.compile": {"values": [True, False]}}}, "launch.compile: says where training runs"),
        ({"parameters": {"register.name": {"values": ["a"]}}}, "register.name: judges models"),
        ({"parameters": {"base.name": {"values": ["a"]}}}, "base.name: is the MLflow experiment"),
        ({"overrides": {"train.max_stepz": 3}}, "overrides: train.max_stepz is not a known key; did you mean train.max_steps?"),
        ({"overrides": {"train.max_steps": -3}}, "overrides: train.max_steps = -3"),
        ({"overrides": {RATE: 0.1}}, "train.learning_rate: is under parameters and under overrides"),
        ({"metric": "validation.bits_per_bite"}, "did you mean validation.bits_per_byte? It must be one of test.bits_per_byte"),
        ({"direction": "maximize"}, "the lowest is the best; write minimize"),
        ({"metric": "hellaswag"}, "direction = 'minimize': of hellaswag the highest is the best; write maximize"),
        ({"method": "bayes"}, "method = 'bayes': input should be 'grid', 'random' or 'tpe'"),
        ({"method": "grid"}, "parameters.train.learning_rate: a grid needs `values`, or low and high with a step"),
        ({"trials": 0}, "trials = 0: means all combinations of a grid; random needs a number"),
        ({"trials": None}, "trials is missing; add it: docs/experiments.md shows a whole file"),
        ({"trails": 3}, "trails = 3 is not a known key"),
        ({"pruner": {"kind": "median"}}, "pruner.startup_trials is missing"),
        ({"pruner": {"kind": "hyperband"}}, "pruner.kind = 'hyperband': must be one of"),
        (
            {"pruner": {"kind": "median", "startup_trials": 3, "warmup_steps": 0}, "overrides": {"train.max_steps": 200}},
            "of train.max_steps = 200 with train.eval_interval = 250 none is from step 0 on and before the end",
        ),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_told_with_its_key(
    write_sweep: Callable[..., None], change: dict[str, Any], told: str
) -> None:
    write_sweep(**change)
    with pytest.raises(UserError) as error:
        load_sweep("lr")
    assert told in str(error.value)
    assert str(error.value).startswith("sweeps/lr.yaml: ")


def test_a_command_tells_it_in_lines_and_ends_with_2(
    write_sweep: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(parameters={RATE: {"values": [0.1, -1.0]}})
    assert main(["sweep", "run", "lr"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: sweeps/lr.yaml: parameters: train.learning_rate = -1.0")
    assert len(told.splitlines()) == 1
    assert main(["sweep", "show", "lr"]) == 2
    assert "run `gpt sweep run lr` first" in capsys.readouterr().err


def test_a_name_that_is_not_there_is_told_with_one_that_is(write_sweep: Callable[..., None]) -> None:
    write_sweep()
    with pytest.raises(UserError, match=r"sweeps/rl.yaml: not found; did you mean lr\?"):
        load_sweep("rl")


def test_a_name_is_no_way_out_of_the_folder(
    write_sweep: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep()
    for name in ("../params", "a/b", ".hidden", ""):
        assert main(["sweep", "forget", name]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_values_that_only_go_together_are_no_mistake(make_sweep: Make) -> None:
    """A width of 100 does not go with the 6 heads of params.yaml, but with 5, which the sweep tries as well."""
    sweep = make_sweep(parameters={"model.n_head": {"values": [5, 6]}, "model.n_embd": {"values": [100, 192]}})
    assert list(sweep.parameters) == ["model.n_head", "model.n_embd"]


def test_the_metrics_of_training_are_its_columns() -> None:
    assert VALIDATION_COLUMNS == ("step", *CURVES)


def test_the_committed_example_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert load_sweep("learning_rate").trials
