"""The gate: whether a candidate may take the champion's place. Every check is looked at and told, whether it passes or not.

Candidate and champion are compared on the champion's own frozen texts (gpt/registry/frozen.py), whatever the candidate's data is;
the first model is held against thresholds. What a check needs and what it means: docs/promotion.md.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gpt.evaluation.comparison import Difference
from gpt.evaluation.scores import Passages
from gpt.params.registration import TEST_BITS_PER_BYTE
from gpt.registry.frozen import Frozen
from gpt.registry.gate.case import Case, compare, find_overlap
from gpt.registry.gate.reasons import TEST_DATA, Reason
from gpt.registry.gate.samples import measure_degeneration, time_ratio
from gpt.registry.gate.scores import Comparison
from gpt.registry.versions import ROLLED_BACK_TAG, model_folder

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_LEAST_KNOWN = 0.5


class PretrainedCase(Case):
    """What promotion asks about a pretrained candidate."""

    def judge(self) -> Iterator[Reason]:
        """Yield everything that the gate looks at, as `judge`."""
        return judge(self)

    def compare(self, reasons: tuple[Reason, ...]) -> Comparison | None:
        """Return the comparison behind the reasons, as `compare`."""
        return compare(self, reasons)


def judge(case: Case) -> Iterator[Reason]:
    """Yield everything that the gate looks at.

    Raises `CannotJudge` if a version does not hold what it was judged on, or the project's data is not the candidate's and it is
    needed.
    """
    yield from describe_standing(case.candidate)
    if case.champion is not None and has_same_weights(case.candidate, case.champion):
        text = f"the weights are those of champion version {case.champion.version}"
        if case.is_comparable:
            yield Reason("other_weights", False, f"no improvement: {text}")
        else:
            yield Reason("other_weights", True, f"{text}, which has lost what it was judged on; this one has it")
            yield from _contamination(case, case.own)
    elif case.texts is None:
        yield from _contamination(case, case.own)
        yield _threshold(case)
    else:
        yield from _against_champion(case, case.texts)
    yield from _generation(case)
    yield from _budgets(case)


def describe_standing(candidate: "ModelVersion") -> Iterator[Reason]:
    """Yield a reason against a candidate that was rolled back."""
    if when := candidate.tags.get(ROLLED_BACK_TAG):
        how = f"`gpt rollback {candidate.version} --name {candidate.name}`"
        text = f"it was rolled back on {when}; {how} brings it back, nothing else does"
        yield Reason("not_rolled_back", False, text)


def _against_champion(case: Case, texts: Frozen) -> Iterator[Reason]:
    whose = f"champion version {_champion(case).version}"
    if case.own.documents_sha256 != texts.documents_sha256:
        known = find_overlap(case, texts).known
        same = known >= _LEAST_KNOWN
        text = f"{known:.0%} of the test documents of {whose} are in this model's data"
        hint = "" if same else "; it is a model of other texts: `gpt promote --other-data` decides so by name"
        yield Reason(TEST_DATA, same, text + hint, known, _LEAST_KNOWN)
        if not same:
            return
    yield from _contamination(case, texts)
    gate = case.params.register_.gate
    for metric, least in gate.min_improvement.items():
        yield improvement(metric, case.differences.get(metric), least, whose)
    for benchmark in sorted(set(case.scores[0].items.benchmark.tolist())):
        limit = gate.max_regression_by_benchmark.get(benchmark, gate.max_regression)
        found = case.differences.get(f"{benchmark}.accuracy")
        yield regression(f"{benchmark}.accuracy.kept", found, limit, "clean items", _why_unmeasured(benchmark))


def _threshold(case: Case) -> Reason:
    figure, threshold = _bits_per_byte(case.own.passages), case.params.register_.gate.max_bits_per_byte
    passed = figure < threshold
    text = f"{figure:.4f} is {'' if passed else 'not '}below {threshold:.4f} (register.gate.max_bits_per_byte)"
    return Reason(TEST_BITS_PER_BYTE, passed, text, figure, threshold)


def _contamination(case: Case, frozen: Frozen) -> Iterator[Reason]:
    share, limit = find_overlap(case, frozen).train, case.params.register_.gate.max_contamination
    passed = share <= limit
    text = (
        f"training documents hold {share:.2%} of the test documents' passages of"
        f" {case.params.prepare.decontaminate.ngram} words, {'not ' if passed else ''}more than {limit:.2%}"
    )
    yield Reason("contamination", passed, text, share, limit)


def improvement(metric: str, found: Difference | None, least: float, whose: str) -> Reason:
    if found is None:
        return Reason(metric, False, f"not measured: {_why_unmeasured(metric.rpartition('.')[0])}")
    passed = found.low > least
    text = f"{found.candidate:.4f} against {found.champion:.4f} ({whose}): "
    if found.low == found.high == 0:
        text += "no improvement, both score the same on every piece of text"
    elif math.isinf(found.low):
        more = "raise evaluate.limit" if found.resampled == "items" else "hold out more (prepare.test_fraction)"
        text += f"better by {found.mean:.4f}, but {found.pieces} pieces of text are too few to exclude chance; {more}"
    else:
        text += (
            f"better by {found.mean:.4f}, {found.confidence:.0%} interval {found.low:.4f} to {found.high:.4f},"
            f" {'' if passed else 'not '}above {least:g}"
        )
    return Reason(metric, passed, text, found.candidate, found.champion, *_limits(found))


def regression(check: str, found: Difference | None, limit: float, pieces: str, why_unmeasured: str) -> Reason:
    """Return whether a loss of more than `limit` can be excluded; `pieces` are what the difference was measured on."""
    if found is None:
        return Reason(check, False, f"not measured: {why_unmeasured}")
    passed = found.high >= -limit
    interval = (
        "too few to exclude chance, so"
        if math.isinf(found.high)
        else f"{found.confidence:.0%} interval {found.low:+.3f} to {found.high:+.3f},"
    )
    text = (
        f"{found.candidate:.3f} against {found.champion:.3f} on {found.pieces} {pieces}: {found.mean:+.3f},"
        f" {interval} {'no ' if passed else 'a '}loss of more than {limit:g}"
    )
    return Reason(check, passed, text, found.candidate, found.champion, *_limits(found))


def _why_unmeasured(benchmark: str) -> str:
    return (
        f"there is no item of {benchmark} that the training documents of both models hold nothing of; name it in"
        " evaluate.benchmarks, or raise evaluate.limit"
    )


def _generation(case: Case) -> Iterator[Reason]:
    gate, found = case.params.register_.gate, measure_degeneration(*case.judged.model, case.params)
    for check, figure, limit, what in (
        ("empty", found.empty, gate.max_empty, "are empty"),
        ("repetition", found.repetition, gate.max_repetition, "of words in a row of 4 stood in the text before"),
        ("unended", found.unended, gate.max_unended, "reach evaluate.max_new_tokens without an end"),
    ):
        of = (
            f"{figure:.0%} {what}" if check == "repetition" else f"{figure:.0%} of {found.texts} generated texts {what}"
        )
        yield Reason(check, figure <= limit, f"{of}, at most {limit:.0%}", figure, limit)


def _budgets(case: Case) -> Iterator[Reason]:
    gate = case.params.register_.gate
    if gate.max_size_mb:
        folder = model_folder(case.client, case.candidate)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        text = f"the model's files have {size:.1f} MB, at most {gate.max_size_mb:g}"
        yield Reason("size_mb", size <= gate.max_size_mb, text, size, gate.max_size_mb)
    if gate.max_time_ratio and case.champion is not None:
        ratio = time_ratio(case.judged.model, case.judged_champion.model)
        text = f"a generated token takes {ratio:.2f} times as long as of champion version {case.champion.version}"
        yield Reason(
            "time_ratio", ratio <= gate.max_time_ratio, f"{text}, at most {gate.max_time_ratio:g}",
            ratio, gate.max_time_ratio,
        )  # fmt: skip


def _champion(case: Case) -> "ModelVersion":
    assert case.champion is not None, "asked only where there is one"
    return case.champion


def has_same_weights(candidate: "ModelVersion", champion: "ModelVersion") -> bool:
    """Whether two versions have the same weights."""
    weights = candidate.tags.get("weights_sha256")
    return weights is not None and weights == champion.tags.get("weights_sha256")


def _bits_per_byte(passages: Passages) -> float:
    return float(passages.nats.sum()) / math.log(2) / int(passages.bytes.sum())


def _limits(found: Difference) -> tuple[float | None, float | None]:
    low, high = (None if np.isinf(limit) else float(limit) for limit in (found.low, found.high))
    return low, high
