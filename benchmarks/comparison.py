"""How far to trust a verdict: `python -m benchmarks comparison`.

Comparisons are simulated with a known true difference. The first table says how often the 95 % interval held it, the others how
often a gate that asks for an improvement would have promoted. Gains are in bits per byte, spread and correlated as those measured
between the default model and one of 900 steps: a standard deviation of 0.022 in a passage of 2 kB, and 0.3 between neighbours.
"""

import math
from collections.abc import Callable

import numpy as np

from gpt.evaluation.comparison import Difference, compare_items, compare_passages
from gpt.evaluation.scores import PASSAGE_BYTES, Items, Passages

COMPARISONS, PROMOTIONS = 1000, 400
"Simulated for a row of the first table, and of the others."
_RESAMPLES = 2000
_SPREAD = 0.022
_NEIGHBOURS = 0.3
_PLAYS = (57, 47)
"Passages of the default run's test documents."

Simulation = Callable[[float, int], Difference]
"Compare two models of a true difference, with a seed."


def measure() -> list[str]:
    """Return markdown tables."""
    lines = [
        f"How often the 95 % interval held the true difference, in {COMPARISONS:,} comparisons each"
        " (by chance alone 93.6 to 96.4 for an exact one):",
        "",
        "| gains | drawn | held |",
        "| --- | --- | ---: |",
    ]
    for title, (simulate, true) in SIMULATIONS.items():
        found = [simulate(true, seed) for seed in range(COMPARISONS)]
        lines.append(f"| {title} | {found[0].blocks} {found[0].resampled} | {100 * coverage(found, true):.1f} % |")
    return lines + promotions()


def promotions() -> list[str]:
    """Return markdown tables of how often a gate promotes."""
    lines = _promotions(
        "Promoted per cent by true difference in bits per byte, two plays as in the default run:",
        lambda true, seed: passages(_PLAYS, true, seed),
        (-0.005, 0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03),
        (0.0, 0.005, 0.01),
    )
    lines += _promotions(
        "Promoted per cent by true difference in accuracy, 200 items of which the models answer a tenth differently:",
        lambda true, seed: items(200, true, seed)["accuracy"],
        (-0.02, 0.0, 0.02, 0.04, 0.06, 0.08),
        (0.0, 0.01),
    )
    return lines


def _promotions(
    title: str, simulate: Simulation, differences: tuple[float, ...], thresholds: tuple[float, ...]
) -> list[str]:
    asked = " | ".join(f"low > {threshold:g}" for threshold in thresholds)
    lines = ["", title, "", f"| true difference | {asked} |", "| ---: |" + " ---: |" * len(thresholds)]
    for true in differences:
        found = [simulate(true, seed) for seed in range(PROMOTIONS)]
        shares = " | ".join(f"{100 * promoted(found, threshold):.1f}" for threshold in thresholds)
        lines.append(f"| {true:+g} | {shares} |")
    return lines


def coverage(found: list[Difference], true: float) -> float:
    """Return the share of comparisons whose interval holds the true difference."""
    return sum(difference.low <= true <= difference.high for difference in found) / len(found)


def promoted(found: list[Difference], threshold: float) -> float:
    """Return the share of comparisons that a gate passes which asks for an improvement of more than `threshold`."""
    return sum(difference.low > threshold for difference in found) / len(found)


def passages(
    documents: tuple[int, ...],
    true: float,
    seed: int,
    *,
    correlation: float = _NEIGHBOURS,
    autoregressive: bool = False,
    heavy: bool = False,
    between_documents: float = 0.0,
) -> Difference:
    """Compare two models on documents of so many passages, whose gains scatter about the true difference.

    Neighbours' gains correlate by `correlation`, those farther apart not, or if `autoregressive` by its powers. `heavy` tails are
    those of Student's t with 3 degrees of freedom. Documents differ by a standard deviation of `between_documents`.
    """
    random = np.random.default_rng(seed)
    gains = np.concatenate(
        [
            true
            + between_documents * random.normal()
            + _SPREAD * _neighbours(count, correlation, autoregressive, heavy, random)
            for count in documents
        ]
    )
    sizes = np.full(len(gains), PASSAGE_BYTES)
    sizes[np.cumsum(documents) - 1] = random.integers(PASSAGE_BYTES // 2, PASSAGE_BYTES, len(documents))
    champion = sizes * math.log(2) * (2.1 + 0.1 * random.normal(size=len(gains)))
    names = [f"{number:04d}" for number in range(len(documents))]
    tables = [
        Passages(
            split=np.full(len(gains), "test", object),
            document=np.repeat(np.array(names, object), documents),
            source=np.full(len(gains), "plays", object),
            start=np.concatenate([np.arange(count) * PASSAGE_BYTES for count in documents]),
            bytes=sizes,
            nats=nats,
        )
        for nats in (champion - gains * sizes * math.log(2), champion)
    ]
    return compare_passages(*tables, seed=seed, resamples=_RESAMPLES)


def _neighbours(
    count: int, correlation: float, autoregressive: bool, heavy: bool, random: np.random.Generator
) -> np.ndarray:
    """Return numbers of mean 0 and variance 1 that correlate."""
    start = 200 if autoregressive else 1
    noise = random.standard_t(3, count + start) / math.sqrt(3) if heavy else random.normal(size=count + start)
    if autoregressive:
        for place in range(1, len(noise)):
            noise[place] = correlation * noise[place - 1] + math.sqrt(1 - correlation**2) * noise[place]
        return noise[start:]
    # x + w y correlates by w / (1 + w²).
    weight = 0.0 if not correlation else (1 - math.sqrt(1 - 4 * correlation**2)) / (2 * correlation)
    return (noise[1:] + weight * noise[:-1]) / math.sqrt(1 + weight**2)


def items(count: int, true: float, seed: int, *, heavy: bool = False) -> dict[str, Difference]:
    """Compare two models on items of four choices: accuracies differ by `true` where a tenth is answered differently.

    Nats of right answers differ by 0.1 bits per byte times `true`, with `heavy` tails as those of passages.
    """
    random = np.random.default_rng(seed)
    champion = random.random(count) < 0.4
    # Of the wrong ones the candidate gets some right, and of the right ones some wrong.
    differ = 0.1
    gained = ~champion & (random.random(count) < (differ + true) / 2 / 0.6)
    lost = champion & (random.random(count) < (differ - true) / 2 / 0.4)
    candidate = (champion | gained) & ~lost
    sizes = random.integers(5, 80, count)
    noise = random.standard_t(3, count) / math.sqrt(3) if heavy else random.normal(size=count)
    theirs = sizes * (1.5 + 0.3 * random.normal(size=count))
    ours = theirs - sizes * math.log(2) * (0.1 * true + 0.05 * noise)
    tables = [
        Items(
            benchmark=np.full(count, "piqa", object),
            id=np.array([f"{number:05d}" for number in range(count)], object),
            clean=np.ones(count, np.bool_),
            answer=np.zeros(count, np.int64),
            chance=np.full(count, 0.25),
            nats=[np.array([value, value + (1 if right else -1)]) for value, right in zip(nats, correct, strict=True)],
            bytes=[np.array([size, size]) for size in sizes],
            greedy=np.zeros(count, np.bool_),
        )
        for nats, correct in ((ours, candidate), (theirs, champion))
    ]
    return compare_items(*tables, seed=seed, resamples=_RESAMPLES)["piqa"]


def _skewed(count: int) -> tuple[int, ...]:
    """Return lengths of documents in passages, as the web has them: many short, few long."""
    return tuple(int(size) for size in np.ceil(np.random.default_rng(0).lognormal(1.0, 0.7, count)))


SIMULATIONS: dict[str, tuple[Simulation, float]] = {
    "two plays": (lambda true, seed: passages(_PLAYS, true, seed), 0.03),
    "two plays, heavy tails": (lambda true, seed: passages(_PLAYS, true, seed, heavy=True), 0.03),
    "two plays, no correlation": (lambda true, seed: passages(_PLAYS, true, seed, correlation=0), 0.0),
    "two plays, correlation 0.4": (lambda true, seed: passages(_PLAYS, true, seed, correlation=0.4), 0.03),
    "two plays, correlation 0.4, 0.16, …": (
        lambda true, seed: passages(_PLAYS, true, seed, correlation=0.4, autoregressive=True),
        0.03,
    ),
    "one document of 64 passages": (lambda true, seed: passages((64,), true, seed), 0.0),
    "one document of 300 passages": (lambda true, seed: passages((300,), true, seed), 0.0),
    "20 documents of 10 passages that differ, heavy tails": (
        lambda true, seed: passages((10,) * 20, true, seed, heavy=True, between_documents=0.01),
        0.01,
    ),
    "60 documents of unequal length that differ": (
        lambda true, seed: passages(_skewed(60), true, seed, between_documents=0.01),
        0.01,
    ),
    "15 documents of a passage": (lambda true, seed: passages((1,) * 15, true, seed), 0.0),
    "200 documents of a passage, heavy tails": (lambda true, seed: passages((1,) * 200, true, seed, heavy=True), 0.0),
    "accuracy of 100 items": (lambda true, seed: items(100, true, seed)["accuracy"], 0.02),
    "accuracy of 300 items": (lambda true, seed: items(300, true, seed)["accuracy"], 0.02),
    "bits per byte of 100 items, heavy tails": (
        lambda true, seed: items(100, true, seed, heavy=True)["bits_per_byte"],
        0.0,
    ),
}
