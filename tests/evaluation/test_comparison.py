import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks import comparison as simulations
from gpt.errors import UserError
from gpt.evaluation.comparison import FEWEST_BLOCKS, Draw, compare_items, compare_passages, resampled_sums
from gpt.evaluation.scores import PASSAGE_BYTES, Items, Passages
from tests.evaluation.test_scores import strings


def passages(*gains: list[float], champion: bool = False) -> Passages:
    """Passages of documents a, b, …: the candidate's, who gains so many bits per byte in each, or the champion's."""
    counts = [len(values) for values in gains]
    total = sum(counts)
    base = np.random.default_rng(0).uniform(1.8, 2.4, total)
    bits = base if champion else base - np.concatenate(gains)
    return Passages(
        split=np.full(total, "test", object),
        document=np.repeat(np.array([chr(97 + number) for number in range(len(gains))], object), counts),
        source=np.full(total, "plays", object),
        start=np.concatenate([np.arange(count) * PASSAGE_BYTES for count in counts]),
        bytes=np.full(total, PASSAGE_BYTES),
        nats=bits * PASSAGE_BYTES * math.log(2),
    )


def items(correct: dict[str, list[int]], chance: float = 0.25) -> Items:
    """Items of two choices: each item's right one is the likelier where `correct` says 1."""
    names = [(benchmark, number) for benchmark, values in correct.items() for number in range(len(values))]
    right = np.concatenate(list(correct.values()))
    return Items(
        benchmark=strings(*(benchmark for benchmark, _ in names)),
        id=strings(*(f"{number:04d}" for _, number in names)),
        clean=np.ones(len(names), np.bool_),
        answer=np.zeros(len(names), np.int64),
        chance=np.full(len(names), chance),
        nats=[np.array([10.0 - value, 9.5]) for value in right],
        bytes=[np.array([5, 5]) for _ in names],
        greedy=np.zeros(len(names), np.bool_),
    )


def noise(count: int, seed: int = 0, mean: float = 0.0) -> list[float]:
    return (mean + 0.02 * np.random.default_rng(seed).normal(size=count)).tolist()


def test_the_gain_is_the_difference_of_the_figures() -> None:
    gains = [noise(80, 1, 0.03), noise(70, 2, 0.03)]
    found = compare_passages(passages(*gains), passages(*gains, champion=True), seed=0)
    assert found.candidate == pytest.approx(found.champion - np.concatenate(gains).mean())
    assert found.mean == pytest.approx(np.concatenate(gains).mean())
    assert 0 < found.low < found.mean < found.high
    assert (found.pieces, found.blocks, found.resampled, found.not_better) == (150, 18, "passages", 0.0)
    worse = compare_passages(passages(*gains, champion=True), passages(*gains), seed=0)
    assert (worse.mean, worse.not_better) == (pytest.approx(-found.mean), 1.0)
    assert (worse.low, worse.high) == (pytest.approx(-found.high, rel=0.02), pytest.approx(-found.low, rel=0.02))


def test_the_same_scores_are_no_improvement() -> None:
    for gains in ([[0.0] * 90, [0.0] * 70], [[0.0] * 3], [[0.0]] * 40, [[0.0]]):
        found = compare_passages(passages(*gains), passages(*gains, champion=True), seed=0)
        assert (found.mean, found.low, found.high, found.not_better) == (0.0, 0.0, 0.0, 1.0)
    same = items({"piqa": [0, 1, 1, 0] * 20})
    for difference in compare_items(same, same, seed=0)["piqa"].values():
        assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_the_seed_alone_decides_the_interval() -> None:
    tables = passages(noise(90)), passages(noise(90), champion=True)
    first, again, other = (compare_passages(*tables, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.low == pytest.approx(other.low, abs=0.001)


def test_the_order_of_the_rows_is_no_matter() -> None:
    own, theirs = passages(noise(90), noise(80, 1)), passages(noise(90), noise(80, 1), champion=True)
    order = np.random.default_rng(0).permutation(len(own))
    assert compare_passages(own.take(order), theirs, seed=1) == compare_passages(own, theirs, seed=1)
    first, second = items({"a": [1, 0, 1, 1] * 9, "b": [0, 1] * 9}), items({"a": [0, 1, 1, 1] * 9, "b": [0, 1] * 9})
    shuffled = second.take(np.random.default_rng(0).permutation(len(second)))
    assert compare_items(first, shuffled, seed=1) == compare_items(first, second, seed=1)


def test_many_documents_are_drawn_themselves_and_of_few_their_passages() -> None:
    def kind(*counts: int) -> tuple[str, int]:
        gains = [noise(count, number) for number, count in enumerate(counts)]
        found = compare_passages(passages(*gains), passages(*gains, champion=True), seed=0)
        return found.resampled, found.blocks

    assert kind(*[3] * 24) == ("documents", 24)
    assert kind(400, 400) == ("passages", 100)
    assert kind(*[20] * 9) == ("passages", 22)
    assert kind(900, *[1] * 15) == ("passages", 112), "one long document is most of the text"


def test_an_interval_over_documents_knows_that_they_differ() -> None:
    gains = [noise(10, number, mean) for number, mean in enumerate(np.random.default_rng(5).normal(0, 0.1, 24))]
    found = compare_passages(passages(*gains), passages(*gains, champion=True), seed=0)
    means = np.array([np.mean(values) for values in gains])
    expected = stats.t.ppf(0.975, 23) * means.std(ddof=1) / math.sqrt(24)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.1)


def test_neighbours_that_gain_together_make_the_interval_wider() -> None:
    rough = noise(400)
    smooth = np.repeat(np.array(rough[:100]), 4).tolist()

    def width(gains: list[float]) -> float:
        found = compare_passages(passages(gains), passages(gains, champion=True), seed=0)
        return found.high - found.low

    assert width(smooth) / width(rough) == pytest.approx(2 * np.std(smooth) / np.std(rough), rel=0.25)


@pytest.mark.parametrize("gains", [[[0.5]], [[0.5] * 20], [[0.5], [0.4], [0.6]], [[0.5] * 8, [0.3] * 8]])
def test_too_few_pieces_give_no_interval_however_large_the_gain(gains: list[list[float]]) -> None:
    found = compare_passages(passages(*gains), passages(*gains, champion=True), seed=0)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.to_dict()["low"] is None
    assert found.mean == pytest.approx(np.mean(np.concatenate(gains)))
    few = compare_items(items({"piqa": [1]}), items({"piqa": [0]}), seed=0)["piqa"]["accuracy"]
    assert (few.mean, few.low, few.high) == (1.0, -math.inf, math.inf)


def test_items_are_compared_by_benchmark_and_together() -> None:
    better, worse = [1, 1, 1, 0, 1, 0, 1, 1, 0, 1] * 10, [0, 1, 1, 0, 1, 0, 1, 0, 0, 1] * 10
    found = compare_items(items({"a": better, "b": worse}), items({"a": worse, "b": worse}), seed=0)
    assert found.keys() == {"a", "b", "centred"}
    accuracy = found["a"]["accuracy"]
    assert (accuracy.candidate, accuracy.champion, accuracy.mean) == (0.7, 0.5, pytest.approx(0.2))
    assert accuracy.low > 0.1
    assert found["b"]["accuracy"].high == 0.0
    # 10 - 1 nats for the right answer instead of 10, of 5 bytes.
    assert found["a"]["bits_per_byte"].mean == pytest.approx(0.2 / math.log(2) / 5)
    centred = found["centred"]["accuracy"]
    assert centred.candidate == pytest.approx(((0.7 - 0.25) + (0.5 - 0.25)) / 2 / 0.75)
    assert centred.mean == pytest.approx(0.2 / 2 / 0.75)
    assert centred.pieces == 200
    assert (centred.high - centred.low) * 2 * 0.75 == pytest.approx(accuracy.high - accuracy.low, rel=0.05)


@given(st.integers(FEWEST_BLOCKS, 60), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_resamples_scatter_as_those_of_scipy(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = np.stack([random.normal(size=count), random.uniform(1, 2, count)], axis=1)

    def ratio(values: np.ndarray, sizes: np.ndarray, axis: int = -1) -> Any:
        return values.sum(axis=axis) / sizes.sum(axis=axis)

    drawn = resampled_sums([Draw(rows, count)], 4000, random)
    reference = stats.bootstrap(
        (rows[:, 0], rows[:, 1]), ratio, paired=True, n_resamples=4000, method="percentile", rng=random
    )
    ours = drawn[:, 0] / drawn[:, 1]
    assert ours.std() == pytest.approx(reference.standard_error, rel=0.1)
    assert np.allclose(
        np.quantile(ours, (0.025, 0.975)), reference.confidence_interval, atol=0.35 * float(reference.standard_error)
    )


def change(table: Any, column: str, place: int, value: Any) -> Any:
    values = list(getattr(table, column))
    values[place] = value
    is_array = isinstance(getattr(table, column), np.ndarray)
    return replace(table, **{column: np.array(values, getattr(table, column).dtype) if is_array else values})


def test_other_passages_are_refused_by_the_first_that_differs() -> None:
    own, theirs = passages(noise(3), noise(2)), passages(noise(3), noise(2), champion=True)
    fewer = own.take(np.array([0, 2, 3, 4]))
    with pytest.raises(UserError, match="passage at byte 2048 of test document a: only the champion was scored on it"):
        compare_passages(fewer, theirs, seed=0)
    with pytest.raises(UserError, match="passage at byte 2048 of test document a: only the candidate was scored on it"):
        compare_passages(theirs, fewer, seed=0)
    with pytest.raises(
        UserError, match="2048 of test document b: 7 bytes for the candidate, 2048 bytes for the champion"
    ):
        compare_passages(change(own, "bytes", 4, 7), theirs, seed=0)
    with pytest.raises(UserError, match="no passage was scored"):
        compare_passages(own.take(np.array([], int)), theirs.take(np.array([], int)), seed=0)
    with pytest.raises(ValueError, match="of one split are compared, not of test and validation"):
        compare_passages(change(own, "split", 0, "validation"), theirs, seed=0)


def test_other_items_are_refused_by_the_first_that_differs() -> None:
    own = items({"piqa": [1, 0, 1]})
    for changed, message in (
        (change(own, "id", 1, "x"), "item 0001 of piqa: only the candidate"),
        (change(own, "answer", 2, 1), "item 0002 of piqa: answer 0 of 2 choices.* for the candidate, answer 1"),
        (change(own, "bytes", 0, np.array([5, 6])), "item 0000 of piqa: .*bytes"),
        (change(own, "id", 1, "0000"), "item 0001 of piqa: only the candidate"),
    ):
        with pytest.raises(UserError, match=message):
            compare_items(own, changed, seed=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_likelihood_that_is_no_number_is_refused(value: float) -> None:
    own = passages(noise(30))
    with pytest.raises(UserError, match="passage at byte 6144 of test document a: the champion's likelihood is not"):
        compare_passages(own, change(own, "nats", 3, value), seed=0)
    asked = items({"piqa": [1, 0, 1]})
    with pytest.raises(UserError, match="item 0001 of piqa: the candidate's likelihood is not a finite number"):
        compare_items(change(asked, "nats", 1, np.array([1.0, value])), asked, seed=0)


# Where gains correlate over many passages intervals are too narrow: docs/evaluation.md says so.
KEPT = [name for name in simulations.SIMULATIONS if not name.endswith("…")]


@pytest.mark.parametrize(
    "name", [name for name in KEPT if name.startswith("two plays")] + ["15 documents of a passage"]
)
def test_an_interval_holds_the_true_difference_as_often_as_it_says(name: str) -> None:
    simulate, true = simulations.SIMULATIONS[name]
    found = [simulate(true, seed) for seed in range(150)]
    assert all(math.isfinite(difference.low) for difference in found)
    # An exact interval holds less than 90 % of 150 once in 200 times, and all of them once in 2,000; the seeds are fixed.
    assert 0.9 <= simulations.coverage(found, true) < 1.0


@pytest.mark.long
@pytest.mark.parametrize("name", KEPT)
def test_of_1000_comparisons_950_hold_the_true_difference_within_chance(name: str) -> None:
    simulate, true = simulations.SIMULATIONS[name]
    found = [simulate(true, seed) for seed in range(1000)]
    # Within 0.93 and 0.97 are 996 of 1,000 exact ones; heavy tails in a hundred items cost a little.
    assert 0.925 <= simulations.coverage(found, true) <= 0.97


def test_a_gate_seldom_promotes_what_is_no_better_and_mostly_what_is() -> None:
    def share(true: float) -> float:
        return simulations.promoted([simulations.passages((57, 47), true, seed) for seed in range(100)], 0.0)

    assert share(0.0) <= 0.07
    assert share(-0.01) == 0.0
    assert share(0.01) >= 0.9
