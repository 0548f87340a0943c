"""register: what a model is called in the registry, and what one must pass to become the champion."""

from typing import Annotated

from pydantic import AfterValidator, Field

from gpt.params.types import FileName, NonNegativeFloat, PositiveFloat, Section

TEST_BITS_PER_BYTE = "test_bits_per_byte"
BENCHMARK_METRICS = ("accuracy", "accuracy_norm", "bits_per_byte")
"Of each benchmark, as `piqa.accuracy`."
_Share = Annotated[float, Field(ge=0, le=1)]


def _metric(name: str) -> str:
    benchmark, _, metric = name.rpartition(".")
    if name != TEST_BITS_PER_BYTE and not (benchmark and metric in BENCHMARK_METRICS):
        raise ValueError(f"must be {TEST_BITS_PER_BYTE}, or BENCHMARK. and one of {', '.join(BENCHMARK_METRICS)}")
    return name


def _names_a_metric(value: dict[str, float]) -> dict[str, float]:
    if not value:
        raise ValueError(f"must name at least one metric, as {TEST_BITS_PER_BYTE}")
    return value


class Gate(Section):
    automatic: bool
    "What passes is the champion at once; false: it waits as the challenger until `gpt promote`."
    confidence: Annotated[float, Field(ge=0.5, lt=1)]
    "Of the intervals of the paired bootstrap that decide what is better and what is worse."
    max_bits_per_byte: PositiveFloat
    "A first champion's bits per byte on the test split must be below this; no candidate is held against it later."
    min_improvement: Annotated[
        dict[Annotated[str, AfterValidator(_metric)], NonNegativeFloat], AfterValidator(_names_a_metric)
    ]
    "Metrics that must be better than the champion's, by more than so much at the lower end of the interval."
    max_regression: NonNegativeFloat
    "Accuracy on clean items that a benchmark may lose. Refused is a loss that is larger at both ends of the interval."
    max_regression_by_benchmark: dict[FileName, NonNegativeFloat]
    "Another one for a benchmark."
    max_contamination: _Share
    "Share of the test documents' word n-grams that may stand in training documents."
    max_repetition: _Share
    "Of generated text: share of 4-grams of words that were in it before (seq-rep-4, Welleck et al. 2020)."
    max_empty: _Share
    "Share of generated texts that may be empty, or white space."
    max_unended: _Share
    "Share of generated texts that may reach evaluate.max_new_tokens without an end; 1: all."
    max_size_mb: NonNegativeFloat
    "Of the model's files, in 10^6 bytes; 0: any size."
    max_time_ratio: NonNegativeFloat
    "Of generation: the candidate's time a token over the champion's, measured in turns in one process; 0: not measured."


class Register(Section):
    name: FileName
    "What the model is called in the registry."
    gate: Gate
