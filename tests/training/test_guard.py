import json
import math

import pytest
import torch

from gpt.training.steps.guard import Guard

CPU = torch.device("cpu")


def judge(guard: Guard, loss: float, norm: float) -> bool:
    return bool(guard.is_bad(torch.tensor(loss), torch.tensor(norm)))


def after_good_steps(sigma: float, count: int) -> Guard:
    """Losses of 2.5 to 3.5, norms of 0.5 to 1.5."""
    guard = Guard(sigma, CPU)
    for step in range(count):
        assert not judge(guard, 3 + 0.5 * math.sin(step), 1 + 0.5 * math.cos(step))
    return guard


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan), (3.0, math.inf)])
def test_what_is_not_finite_is_bad_from_the_first_step_on(loss: float, norm: float) -> None:
    assert judge(Guard(6.0, CPU), loss, norm)
    assert judge(Guard(0.0, CPU), loss, norm)


@pytest.mark.parametrize(("loss", "norm"), [(7.0, 1.0), (3.0, 30.0)])
def test_a_spike_of_either_is_bad_once_there_is_something_to_compare_with(loss: float, norm: float) -> None:
    assert not judge(after_good_steps(6.0, 63), loss, norm)
    assert judge(after_good_steps(6.0, 64), loss, norm)
    assert not judge(after_good_steps(20.0, 64), loss, norm)
    assert not judge(after_good_steps(0.0, 64), loss, norm), "0 turns it off"


def test_a_loss_or_norm_that_falls_is_good() -> None:
    assert not judge(after_good_steps(6.0, 200), 0.0, 0.0)


def test_the_window_forgets_what_is_old_and_never_holds_what_was_bad() -> None:
    guard = Guard(6.0, CPU)
    for _ in range(128):
        assert not judge(guard, 30.0, 10.0)
    for step in range(128):
        assert not judge(guard, 3 + 0.1 * math.sin(step), 1 + 0.1 * math.cos(step))
    assert judge(guard, 30.0, 1.0), "30 was normal once"
    assert judge(guard, math.nan, 1.0)
    assert judge(guard, 30.0, 1.0), "a bad step does not make the next look normal"


def test_it_counts_what_it_found() -> None:
    guard = after_good_steps(6.0, 10)
    for loss in (math.nan, math.nan, 3.0, math.nan):
        judge(guard, loss, 1.0)
    counts = guard.counts()
    assert (counts.taken, counts.skipped, counts.in_a_row, counts.most_in_a_row) == (11, 3, 1, 2)
    guard.go_on_after(counts.skipped)
    counts = guard.counts()
    assert (counts.taken, counts.skipped, counts.in_a_row, counts.most_in_a_row) == (11, 3, 0, 0)


def test_it_judges_alike_after_a_resume() -> None:
    whole, state = after_good_steps(6.0, 100), after_good_steps(6.0, 100).state_dict()
    resumed = Guard(6.0, CPU)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    for loss in (3.1, 5.5, 5.7, math.nan, 5.9, 6.5, 3.0):
        assert judge(whole, loss, 1.0) == judge(resumed, loss, 1.0)
    assert whole.state_dict() == resumed.state_dict()
