"""What trial k tries depends on the file and its number; no two trials are the same, and params.yaml takes each."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.sweeps.records import COMPLETE, FAILED, PRUNED, RUNNING, Trial
from gpt.sweeps.settings import Sweep, changed, is_allowed
from gpt.sweeps.suggest import check_possible, count_trials, identity, suggest
from tests.sweeps.conftest import Make

RATE = "train.learning_rate"
SPACE = {
    RATE: {"low": 0.001, "high": 0.1, "log": True},
    "train.weight_decay": {"low": 0.0, "high": 0.3, "step": 0.1},
    "model.n_layer": {"low": 1, "high": 8},
    "model.norm": {"values": ["rmsnorm", "layernorm"]},
    "train.max_epochs": {"low": 0, "high": 100},
}


def all_of(sweep: Sweep, settings: dict[str, Any], count: int, state: str = COMPLETE) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(1, count + 1):
        values = suggest(sweep, settings, number, trials)
        if values is None:
            break
        value = math.log(values.get(RATE, 1.0) / 0.01) ** 2
        trials.append(Trial(number, values, state, value=value, curve=[(10, value)]))
    return trials


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_values_lie_in_their_ranges_and_are_of_their_kind(
    make_sweep: Make, settings: dict[str, Any], method: str
) -> None:
    sweep = make_sweep(method=method, trials=30, parameters=SPACE)
    trials = all_of(sweep, settings, 30)
    assert len({identity(trial.params) for trial in trials}) == 30
    for trial in trials:
        values = trial.params
        assert 0.001 <= values[RATE] <= 0.1
        assert values["train.weight_decay"] in (0.0, 0.1, 0.2, 0.3)
        assert values["model.n_layer"] in range(1, 9)
        assert isinstance(values["model.n_layer"], int)
        assert isinstance(values["train.max_epochs"], float), "the key holds such a number"
        assert is_allowed(changed(settings, values))
    assert sum(trial.params[RATE] < 0.01 for trial in trials) in range(5, 26), "as likely below as above"


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), number=st.integers(1, 12), data=st.data())
def test_a_random_trial_is_the_same_whatever_became_of_the_others(
    make_sweep: Make, settings: dict[str, Any], seed: int, number: int, data: st.DataObject
) -> None:
    sweep = make_sweep(seed=seed, parameters=SPACE)
    trials = all_of(sweep, settings, 12)
    for trial in trials:
        trial.state = data.draw(st.sampled_from([COMPLETE, PRUNED, FAILED, RUNNING]))
        trial.value = data.draw(st.floats(0, 9))
    assert suggest(sweep, settings, number, trials[: number - 1]) == trials[number - 1].params


def test_a_grid_is_every_combination_once_in_the_order_of_the_file(make_sweep: Make, settings: dict[str, Any]) -> None:
    sweep = make_sweep(
        method="grid",
        trials=0,
        parameters={RATE: {"values": [0.1, 0.01]}, "model.n_layer": {"low": 1, "high": 5, "step": 2}},
    )
    found = [tuple(trial.params.values()) for trial in all_of(sweep, settings, 99)]
    assert found == [(0.1, 1), (0.1, 3), (0.1, 5), (0.01, 1), (0.01, 3), (0.01, 5)]
    assert count_trials(sweep, settings) == 6


@pytest.mark.parametrize("method", ["grid", "random"])
def test_combinations_that_params_yaml_does_not_take_are_left_out(
    make_sweep: Make, settings: dict[str, Any], method: str
) -> None:
    sweep = make_sweep(
        method=method, trials=9, parameters={"model.n_head": {"values": [5, 6]}, "model.n_embd": {"values": [100, 192]}}
    )
    found = {tuple(trial.params.values()) for trial in all_of(sweep, settings, 9)}
    assert found == {(5, 100), (6, 192)}, "and there are no more, though more were asked for"


def test_nothing_that_goes_together_is_told_before_anything_runs(make_sweep: Make, settings: dict[str, Any]) -> None:
    sweep = make_sweep(parameters={"model.n_head": {"values": [5, 7]}})
    with pytest.raises(UserError, match="n_embd"):
        check_possible(sweep, settings)


def test_tpe_goes_where_it_was_good_and_says_the_same_again(make_sweep: Make, settings: dict[str, Any]) -> None:
    """The value is the squared distance from 0.01 on the logarithmic axis."""
    sweep = make_sweep(method="tpe", trials=30)
    trials = all_of(sweep, settings, 30)
    assert [trial.params for trial in all_of(sweep, settings, 30)] == [trial.params for trial in trials]
    random = all_of(make_sweep(method="random", trials=30), settings, 30)
    assert [trial.params for trial in trials[:10]] == [trial.params for trial in random[:10]], "the first are drawn"
    learnt, drawn = (sum(trial.value or 0 for trial in some[10:]) / 20 for some in (trials, random))
    assert learnt < 0.75 * drawn


def test_tpe_keeps_workers_apart(make_sweep: Make, settings: dict[str, Any]) -> None:
    sweep = make_sweep(method="tpe", trials=30)
    trials = all_of(sweep, settings, 12)
    running = [*trials]
    for number in range(13, 17):
        values = suggest(sweep, settings, number, running)
        assert values is not None
        running.append(Trial(number, values, RUNNING))
    assert len({trial.params[RATE] for trial in running}) == 16
