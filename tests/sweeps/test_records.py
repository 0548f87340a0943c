"""What is written down of a trial survives, and goes one way: nothing that ended begins again unless somebody asks."""

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gpt.errors import UserError
from gpt.sweeps.records import COMPLETE, ENDED, FAILED, PRUNED, RUNNING, WAITING, Records, Trial, best

STATES = (WAITING, RUNNING, *ENDED)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SWEEP = {"method": "random", "trials": 3, "seed": 1}


class Way(RuleBasedStateMachine):
    """A trial is asked for any change at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.trial, self.ended, self.asked = Trial(1, {}), "", False

    @rule(state=st.sampled_from(STATES))
    def change(self, state: str) -> None:
        before = self.trial.state
        allowed = {WAITING: {RUNNING}, RUNNING: {RUNNING, *ENDED}, FAILED: {WAITING}}.get(before, set())
        if state in allowed:
            self.trial.go_to(state)
            self.asked = self.asked or before == FAILED
            self.ended = state if state in (COMPLETE, PRUNED) else self.ended
        else:
            with pytest.raises(ValueError, match=f"from {before} to {state}"):
                self.trial.go_to(state)
            assert self.trial.state == before

    @invariant()
    def what_ended_well_stays(self) -> None:
        assert not self.ended or self.trial.state == self.ended

    @precondition(lambda self: not self.asked)
    @invariant()
    def nothing_waits_again_by_itself(self) -> None:
        assert self.trial.state in STATES


TestWay = Way.TestCase

trials_ = st.builds(
    Trial,
    st.integers(1, 999),
    st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), FLOATS, st.text(), st.none())),
    st.sampled_from(STATES),
    st.text(),
    st.one_of(st.none(), FLOATS),
    st.lists(st.tuples(st.integers(0, 9999), FLOATS)),
)  # fmt: skip


@given(trial=trials_)
def test_a_record_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, trial: Trial) -> None:
    records = Records("s", tmp_path_factory.mktemp("records"))
    records.write(trial)
    assert records.trials() == [trial]
    assert records.trial(trial.number) == trial


def test_a_file_that_changed_is_refused_but_for_more_trials(tmp_path: Path) -> None:
    records = Records("s", tmp_path)
    about = records.begin(SWEEP, "c0ffee")
    assert records.begin(SWEEP | {"trials": 9}, "another") == type(about)(about.id, "c0ffee", SWEEP | {"trials": 9})
    with pytest.raises(UserError, match=r"has changed since this sweep began.*gpt sweep forget s"):
        records.begin(SWEEP | {"seed": 2}, "c0ffee")


def test_the_best_is_a_complete_one_and_of_equal_ones_the_first() -> None:
    trials = [
        Trial(1, {}, PRUNED, value=0.1), Trial(2, {}, COMPLETE, value=2.0), Trial(3, {}, COMPLETE, value=1.0),
        Trial(4, {}, COMPLETE, value=1.0), Trial(5, {}, FAILED),
    ]  # fmt: skip
    assert best(trials, "minimize") is trials[2]
    assert best(trials, "maximize") is trials[1]
    assert best(trials[:1], "minimize") is None


def _take_all(folder: Path, count: int, taken: "multiprocessing.Queue[int]") -> None:
    records = Records("s", folder)
    for number in range(1, count + 1):
        with records.alone():
            trial, lock = records.trial(number), records.try_to_hold(number)
            if lock is None or trial.state != WAITING:
                continue
            trial.go_to(RUNNING)
            records.write(trial)
        taken.put(number)


def test_of_several_processes_one_gets_each_trial(tmp_path: Path) -> None:
    records = Records("s", tmp_path)
    for number in range(1, 31):
        records.write(Trial(number, {}))
    context = multiprocessing.get_context("fork")
    taken: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_take_all, args=(tmp_path, 30, taken)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = sorted(taken.get(timeout=60) for _ in range(30))
    for worker in workers:
        worker.join(timeout=60)
    assert found == list(range(1, 31))
    assert taken.empty()


def test_a_sweep_that_runs_is_not_forgotten(tmp_path: Path) -> None:
    records = Records("s", tmp_path)
    records.begin(SWEEP, "c0ffee")
    records.write(Trial(1, {}, RUNNING))
    with records.try_to_hold(1) or pytest.fail("free"), pytest.raises(UserError, match="trial 1 runs"):
        records.forget()
    records.forget()
    assert not records.folder.exists()
    with pytest.raises(UserError, match="run `gpt sweep run s` first"):
        records.about()
