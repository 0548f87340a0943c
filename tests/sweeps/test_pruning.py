"""A trial is given up for what it has shown beside the others, and never for what it has not shown yet."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpt.sweeps.pruning import judge
from gpt.sweeps.records import COMPLETE, RUNNING, Trial
from gpt.sweeps.settings import Median, NoPruner, SuccessiveHalving

MEDIAN = Median(kind="median", startup_trials=3, warmup_steps=20)
curves = st.lists(st.floats(0.5, 9), min_size=3, max_size=3).map(lambda row: list(zip((10, 20, 30), row, strict=True)))


def trial(number: int, curve: list[tuple[int, float]], state: str = COMPLETE) -> Trial:
    return Trial(number, {}, state, value=curve[-1][1] if state == COMPLETE else None, curve=curve)


@given(others=st.lists(curves, max_size=8), curve=curves, seen=st.integers(1, 3))
def test_the_median_is_that_of_the_complete_ones_at_that_step(
    others: list[list[tuple[int, float]]], curve: list[tuple[int, float]], seen: int
) -> None:
    """Told by arithmetic: the best so far against the middle of the others' values at the step."""
    complete = [trial(number, other) for number, other in enumerate(others, 2)]
    reason = judge(MEDIAN, trial(1, curve[:seen], RUNNING), complete)
    at_step = sorted(dict(other)[curve[seen - 1][0]] for other in others)
    half = len(at_step) // 2
    middle = (at_step[half] + at_step[~half]) / 2 if at_step else 0.0
    best = min(value for _, value in curve[:seen])
    assume(abs(best - middle) > 1e-9)
    expected = len(others) >= 3 and curve[seen - 1][0] >= 20 and best > middle
    assert bool(reason) == expected
    if reason:
        assert f"after step {curve[seen - 1][0]}: worse than the median of {len(others)} complete trials" in reason


def test_without_a_pruner_nothing_is_given_up() -> None:
    others = [trial(number, [(10, 1.0)]) for number in range(2, 9)]
    assert not judge(NoPruner(kind="none"), trial(1, [(10, 99.0)], RUNNING), others)


def test_halving_lets_the_best_fourth_go_on_at_each_rung() -> None:
    """Sixteen trials come to step 10 one after the other, from the worst to the best: each is the best so far and goes on."""
    pruner = SuccessiveHalving(kind="successive_halving", min_steps=10, reduction_factor=4)
    rising: list[Trial] = []
    for number in range(1, 17):
        one = trial(number, [(10, 10.0 - number / 10)], RUNNING)
        assert not judge(pruner, one, rising)
        assert one.rungs == {"completed_rung_0": 10.0 - number / 10}, "noted, so that a later process knows of it"
        rising.append(one)
    late = trial(17, [(10, 9.0)], RUNNING)
    assert "not among the best 1 in 4 that came so far" in judge(pruner, late, rising)
    second = rising[0]
    second.curve.append((40, 5.0))
    assert not judge(pruner, second, rising[1:]), "the first at the next rung"
    assert set(second.rungs) == {"completed_rung_0", "completed_rung_1"}


@pytest.mark.parametrize("step", [5, 15])
def test_between_rungs_nothing_is_given_up(step: int) -> None:
    pruner = SuccessiveHalving(kind="successive_halving", min_steps=10, reduction_factor=4)
    others = [Trial(n, {}, RUNNING, curve=[(10, 1.0)], rungs={"completed_rung_0": 1.0}) for n in range(2, 9)]
    one = Trial(1, {}, RUNNING, curve=[(step, 99.0)], rungs={"completed_rung_0": 0.5} if step > 10 else {})
    assert not judge(pruner, one, others)
