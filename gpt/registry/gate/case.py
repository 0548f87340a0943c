"""What is judged, and the evidence: what candidate and champion score on the same texts, what of them is in training documents."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gpt import paths
from gpt.code import code_hash
from gpt.corpus.documents import describe_documents
from gpt.errors import UserError
from gpt.evaluation.benchmarks.items import Benchmark
from gpt.evaluation.comparison import Difference
from gpt.files import sha256_json
from gpt.params.project import Params
from gpt.registry.frozen import Frozen, read_frozen, scoring_identity
from gpt.registry.gate.overlap import Overlap, find_touched, measure_overlap
from gpt.registry.gate.reasons import TEST_DATA, CannotJudge, Reason
from gpt.registry.gate.scores import Comparison, Judged, Scores, differences, score
from gpt.registry.versions import ROLLED_BACK_TAG, set_shared
from gpt.tokens.shards import data_id, read_index
from gpt.tracking.dataset import read_report

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_OVERLAP_TAG = "gate.overlap"
_FOLDER = Path(__file__).parent
_GENERATION = {"prompts", "max_new_tokens", "temperature", "top_k"}
# A verdict by other code is another one. What computes scores counts with the versions that hold them.
_CODE = (*sorted(_FOLDER.glob("*.py")), _FOLDER.parents[1] / "evaluation" / "comparison.py")


@dataclass(frozen=True)
class Case:
    """What is judged: a candidate, beside the champion if there is one, by the settings and data of a project."""

    client: "MlflowClient"
    candidate: "ModelVersion"
    champion: "ModelVersion | None"
    params: Params
    project: Path
    other_data: bool = False
    "A person has decided that the champion's texts do not matter: thresholds do, as for the first model."

    def depends_on(self) -> str:
        """Return a hash of what the verdict depends on: with another one, the question is asked again."""
        champion = None if self.champion is None else [self.champion.version, self.champion.tags.get("weights_sha256")]
        code = {path.name: code_hash(path) for path in _CODE}
        params = self.params
        settings = [
            params.register_.gate.model_dump(mode="json", exclude={"automatic"}),
            params.evaluate.model_dump(mode="json", include=_GENERATION),
            params.prepare.decontaminate.model_dump(mode="json"),
            params.base.seed,
            scoring_identity(params.evaluate.precision),
        ]
        held_back = ROLLED_BACK_TAG in self.candidate.tags
        return sha256_json(
            [self.candidate.version, champion, settings, code, self.other_data, held_back, self.is_comparable]
        )

    @cached_property
    def champions(self) -> Frozen | None:
        """Return what the champion was judged on, None if it does not hold that; raise `UserError` if a file is damaged."""
        assert self.champion is not None, "asked only where there is one"
        return read_frozen(self.client, self.champion)

    @property
    def is_comparable(self) -> bool:
        """Whether there is a champion that holds, undamaged, what it was judged on."""
        try:
            return self.champion is not None and self.champions is not None
        except UserError:
            return False

    @cached_property
    def own(self) -> Frozen:
        """Return what the candidate was judged on when it was registered."""
        found = read_frozen(self.client, self.candidate)
        if found is None:
            raise CannotJudge(_unknown(self.candidate, "register the model again"))
        return found

    @cached_property
    def texts(self) -> Frozen | None:
        """Return what both are judged on: what the champion was; None if there is nothing to compare with.

        An earlier release kept no texts with a version. If the champion was made from the candidate's data, or measured on its
        test documents, then the candidate's do.
        """
        if self.champion is None or self.other_data:
            return None
        if self.champions:
            return self.champions
        if _has_its_texts(self.candidate, self.champion):
            return self.own
        again = "register it again, or decide without a comparison: `gpt promote --other-data`"
        raise CannotJudge(_unknown(self.champion, again))

    @cached_property
    def judged(self) -> Judged:
        return Judged(self.client, self.candidate, self.own)

    @cached_property
    def judged_champion(self) -> Judged:
        assert self.champion is not None, "asked only where there is one"
        return Judged(self.client, self.champion, self.champions)

    @cached_property
    def scores(self) -> tuple[Scores, Scores]:
        """Return what candidate and champion score on the same texts."""
        assert self.texts is not None, "asked only where there is something to compare with"
        precision = self.params.evaluate.precision
        candidate, champion = _benchmarks(self, self.texts)
        return (
            score(self.judged, self.texts, candidate, precision),
            score(self.judged_champion, self.texts, champion, precision),
        )

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Return by metric how much better the candidate is."""
        return differences(*self.scores, seed=self.params.base.seed, confidence=self.params.register_.gate.confidence)


def compare(case: Case, reasons: tuple[Reason, ...]) -> Comparison | None:
    """Return the comparison behind the gate's reasons, None if there was none: no champion, or one of other texts."""
    if case.champion is None or case.texts is None or any(not one.passed and one.check == TEST_DATA for one in reasons):
        return None
    return Comparison(case.champion, case.differences)


def _benchmarks(case: Case, texts: Frozen) -> tuple[list[Benchmark], list[Benchmark]]:
    """Return the items that both are asked, with what is clean for the candidate, and for the champion.

    They are those that the champion was asked, and of benchmarks that it was not asked, the candidate's. Whether the champion has
    learned from those is not known: that would speak for the champion.
    """
    others = {name: each for name, each in case.own.benchmarks.items() if name not in texts.benchmarks}
    everything = [*texts.benchmarks.values(), *others.values()]
    known = {
        item: clean
        for benchmark in case.own.benchmarks.values()
        for item, clean in zip(benchmark.items, benchmark.clean, strict=True)
    }
    unknown = [item for benchmark in everything for item in benchmark.items if item not in known]
    if unknown:
        _check_is_the_candidates(case)
        touched = find_touched(unknown, case.project, case.params.prepare.decontaminate)
        known |= {item: item.id not in touched for item in unknown}
    own = [replace(benchmark, clean=[known[item] for item in benchmark.items]) for benchmark in everything]
    if case.judged_champion.frozen is None:
        return own, [replace(benchmark, clean=[True] * len(benchmark.items)) for benchmark in everything]
    asked = [replace(benchmark, clean=[True] * len(benchmark.items)) for benchmark in others.values()]
    return own, [*texts.benchmarks.values(), *asked]


def _has_its_texts(candidate: "ModelVersion", champion: "ModelVersion") -> bool:
    return any(
        champion.tags.get(key) is not None and champion.tags.get(key) == candidate.tags.get(key)
        for key in ("data_sha256", "test_documents_sha256")
    )


def find_overlap(case: Case, frozen: Frozen) -> Overlap:
    """Return what of frozen documents is in the candidate's data; it is measured once and kept with the version."""
    how = case.params.prepare.decontaminate.model_dump(mode="json")
    key = f"{_OVERLAP_TAG}.{sha256_json([frozen.documents_sha256, how])[:16]}"
    version = case.client.get_model_version(case.candidate.name, case.candidate.version)
    if key in version.tags:
        return Overlap(**json.loads(version.tags[key]))
    if frozen.documents_sha256 == case.own.documents_sha256 and _is_kept_out(case):
        found = Overlap(train=0.0, known=1.0)
    else:
        _check_is_the_candidates(case)
        found = measure_overlap(frozen, case.project, case.params.prepare.decontaminate)
    kept = json.dumps({"train": found.train, "known": found.known})
    set_shared(case.client.set_model_version_tag, version.name, version.version, key, kept)
    return found


def _is_kept_out(case: Case) -> bool:
    """Whether `gpt prepare` has taken out of the candidate's training documents what they share with its own test documents."""
    if not _is_the_candidates(case):
        return False
    report = read_report(case.project / paths.DOCUMENTS, case.project / paths.TOKENS)
    return bool(report) and report["settings"]["decontaminate"]["action"]["held_out"] != "report"


def _is_the_candidates(case: Case) -> bool:
    """Whether the project's data is what the candidate was trained and measured on."""
    try:
        described = describe_documents(case.project / paths.DOCUMENTS)
        splits = read_index(case.project / paths.TOKENS)["splits"]
        same = all(described[split]["sha256"] == splits[split]["documents_sha256"] for split in splits)
        return same and data_id(case.project / paths.TOKENS) == case.candidate.tags.get("data_sha256")
    except UserError:  # not there
        return False


def _check_is_the_candidates(case: Case) -> None:
    if not _is_the_candidates(case):
        raise CannotJudge(
            f"{case.project / paths.DOCUMENTS}: not the documents that models:/{case.candidate.name}/{case.candidate.version}"
            " was trained on, in which the champion's test documents must be looked for; run `gpt promote` in the project that"
            " registered it, after `dvc repro`"
        )


def _unknown(version: "ModelVersion", hint: str) -> str:
    return (
        f"models:/{version.name}/{version.version}: not registered by `gpt register`, or by an earlier one: it does not hold"
        f" what it was judged on; {hint}"
    )
