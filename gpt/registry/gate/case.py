"""What is judged, and the evidence: what candidate and champion scored on the same texts, what of them is in training documents."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tiktoken

from gpt import paths
from gpt.code import code_hash
from gpt.corpus.documents import describe_documents
from gpt.errors import UserError
from gpt.evaluation.comparison import Difference, compare_items, compare_passages
from gpt.evaluation.held_out import encode
from gpt.evaluation.passages import score_documents
from gpt.evaluation.scores import Items, Passages
from gpt.files import sha256_json
from gpt.model.storage import default_device, load_model
from gpt.model.transformer import GPTModel
from gpt.params.project import Params
from gpt.params.registration import TEST_BITS_PER_BYTE
from gpt.processes.cores import bound_threads
from gpt.processes.precision import autocast_type, matmul_precision
from gpt.registry.frozen import Frozen, read_frozen, sort_passages
from gpt.registry.gate.overlap import Overlap, measure_overlap
from gpt.registry.versions import ROLLED_BACK_TAG, model_folder
from gpt.tokens.shards import data_id, read_index
from gpt.tracking.dataset import read_report

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_OVERLAP_TAG = "gate.overlap"
_FOLDER = Path(__file__).parent
# A verdict by other code is another one. What computes scores counts with the versions that hold them.
_CODE = (*sorted(_FOLDER.glob("*.py")), _FOLDER.parents[1] / "evaluation" / "comparison.py")


class CannotJudge(UserError):
    """What the gate needs is not at hand: nothing was decided."""


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
        gate = self.params.register_.gate.model_dump(mode="json", exclude={"automatic"})
        held_back = ROLLED_BACK_TAG in self.candidate.tags
        return sha256_json([self.candidate.version, champion, gate, code, self.other_data, held_back])

    @cached_property
    def own(self) -> Frozen:
        return _frozen(self.client, self.candidate, "register the model again")

    @cached_property
    def theirs(self) -> Frozen | None:
        """Return what the champion was judged on, None if there is nothing to compare with."""
        if self.champion is None or self.other_data:
            return None
        again = "register it again, or decide without a comparison: `gpt promote --other-data`"
        return _frozen(self.client, self.champion, again)

    @cached_property
    def model(self) -> tuple[GPTModel, tiktoken.Encoding]:
        bound_threads()
        return load_model(model_folder(self.client, self.candidate), default_device())


def differences(case: Case, theirs: Frozen) -> dict[str, Difference]:
    """Return by metric how much better the candidate is on the champion's frozen texts."""
    seed, confidence = case.params.base.seed, case.params.register_.gate.confidence
    own = case.own.passages
    if case.own.documents_sha256 != theirs.documents_sha256:
        own = _score_again(case, theirs)
    found = {TEST_BITS_PER_BYTE: compare_passages(own, theirs.passages, seed=seed, confidence=confidence)}
    items, their_items = _common_items(case.own, theirs)
    if len(items):
        for benchmark, metrics in compare_items(items, their_items, seed=seed, confidence=confidence).items():
            found |= {f"{benchmark}.{metric}": difference for metric, difference in metrics.items()}
    return found


def _score_again(case: Case, theirs: Frozen) -> Passages:
    """Return the candidate's scores on the champion's test documents, by its own tokenizer."""
    model, encoding = case.model
    precision = case.params.evaluate.precision
    documents = (encode(document, encoding) for document in theirs.documents())
    with matmul_precision(precision):
        scored = score_documents(model, documents, encoding, "test", autocast=autocast_type(precision))
    return sort_passages(scored.passages)


def _common_items(own: Frozen, theirs: Frozen) -> tuple[Items, Items]:
    """Return the scores of items that both versions were asked, word for word, and that neither has learned from."""
    texts, their_texts = (
        {(item["benchmark"], item["id"]): item for item in each.item_texts()} for each in (own, theirs)
    )
    clean = _clean(own.items) & _clean(theirs.items)
    common = {key for key in clean if texts.get(key) == their_texts.get(key)}
    return _only(own.items, common), _only(theirs.items, common)


def _clean(items: Items) -> set[tuple[str, str]]:
    return {
        (str(benchmark), str(name))
        for benchmark, name, clean in zip(items.benchmark, items.id, items.clean, strict=True)
        if clean
    }


def _only(items: Items, wanted: set[tuple[str, str]]) -> Items:
    keys = list(zip(map(str, items.benchmark), map(str, items.id), strict=True))
    places = np.array(sorted((at for at, key in enumerate(keys) if key in wanted), key=lambda at: keys[at]), np.int64)
    return Items(
        benchmark=items.benchmark[places],
        id=items.id[places],
        clean=items.clean[places],
        answer=items.answer[places],
        chance=items.chance[places],
        nats=[items.nats[place] for place in places],
        bytes=[items.bytes[place] for place in places],
        greedy=items.greedy[places],
    )


def find_overlap(case: Case, frozen: Frozen) -> Overlap:
    """Return what of frozen documents is in the candidate's data; it is measured once and kept with the version."""
    key = f"{_OVERLAP_TAG}.{frozen.documents_sha256[:16]}"
    version = case.client.get_model_version(case.candidate.name, case.candidate.version)
    if key in version.tags:
        return Overlap(**json.loads(version.tags[key]))
    if frozen.documents_sha256 == case.own.documents_sha256 and _is_kept_out(case):
        found = Overlap(train=0.0, known=1.0)
    else:
        _check_is_the_candidates(case)
        found = measure_overlap(frozen, case.project, case.params.prepare.decontaminate)
    case.client.set_model_version_tag(
        version.name, version.version, key, json.dumps({"train": found.train, "known": found.known})
    )
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


def _frozen(client: "MlflowClient", version: "ModelVersion", hint: str) -> Frozen:
    found = read_frozen(client, version)
    if found is None:
        raise CannotJudge(
            f"models:/{version.name}/{version.version}: not registered by `gpt register`, or by an earlier one: it does not hold"
            f" what it was judged on; {hint}"
        )
    return found
