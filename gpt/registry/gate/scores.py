"""What candidate and champion score on the same texts: what is stored with them where both were asked the same, else computed anew.

The texts are the champion's: its frozen test documents and benchmark items. Scores that another precision or other code of the
evaluation gave are no comparison, so both models are scored again then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gpt.errors import UserError
from gpt.evaluation.benchmarks.continuations import encode_pair, score_continuations
from gpt.evaluation.benchmarks.figures import tabulate
from gpt.evaluation.benchmarks.items import Benchmark
from gpt.evaluation.comparison import Difference, compare_items, compare_passages
from gpt.evaluation.held_out import encode
from gpt.evaluation.passages import score_documents
from gpt.evaluation.scores import Items, Passages
from gpt.model.storage import default_device, load_model
from gpt.model.transformer import GPTModel
from gpt.params.registration import TEST_BITS_PER_BYTE
from gpt.processes.cores import bound_threads
from gpt.processes.precision import autocast_type, matmul_precision
from gpt.registry.frozen import Frozen, scoring_identity, sort_passages
from gpt.registry.gate.reasons import CannotJudge
from gpt.registry.versions import model_folder
from gpt.tokens.encoding import Encoding

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Judged:
    """A version that is judged, with its model and what it was judged on when it was registered."""

    client: "MlflowClient"
    version: "ModelVersion"
    frozen: Frozen | None
    "None of a version that an earlier release registered."

    @cached_property
    def model(self) -> tuple[GPTModel, Encoding]:
        """Return the model on this machine's device; raise `CannotJudge` if it does not load here."""
        bound_threads()
        try:
            return load_model(model_folder(self.client, self.version), default_device())
        except UserError as error:
            raise CannotJudge(f"models:/{self.version.name}/{self.version.version} does not load: {error}") from error


@dataclass(frozen=True)
class Scores:
    """What one version scored on the texts that both were asked."""

    passages: Passages
    items: Items


@dataclass(frozen=True)
class Comparison:
    """The champion that a candidate was held against, and what came of it: all that a report draws."""

    champion: "ModelVersion"
    differences: dict[str, Difference]
    "By metric, as `test_bits_per_byte` or `piqa.accuracy`: how much better the candidate is."


def score(judged: Judged, texts: Frozen, benchmarks: Sequence[Benchmark], precision: str) -> Scores:
    """Return what a version scores on documents and items: what is stored with it, as far as it was asked the same in the same way.

    Items are clean as `benchmarks` say.
    """
    identity = scoring_identity(precision)
    own = judged.frozen if judged.frozen and judged.frozen.scored_with == identity else None
    with matmul_precision(precision):
        same = own is not None and _same_documents(own, texts)
        passages = own.passages if same and own else _score_documents(judged, texts, precision)
        return Scores(passages, _score_items(judged, own, benchmarks, precision))


def _same_documents(own: Frozen, texts: Frozen) -> bool:
    """Whether both are of the same documents, by the same ids: a source that was renamed gives others."""
    return own.documents_sha256 == texts.documents_sha256 and bool(
        np.array_equal(own.passages.document, texts.passages.document)
    )


def _score_documents(judged: Judged, texts: Frozen, precision: str) -> Passages:
    model, encoding = judged.model
    documents = (encode(document, encoding) for document in texts.documents())
    return sort_passages(
        score_documents(model, documents, encoding, "test", autocast=autocast_type(precision)).passages
    )


def _score_items(judged: Judged, own: Frozen | None, benchmarks: Sequence[Benchmark], precision: str) -> Items:
    """Return the answers in the order of the benchmarks and their items, wherever they come from."""
    stored = {benchmark.name: _stored_answers(own, benchmark) for benchmark in benchmarks}
    anew = [benchmark for benchmark in benchmarks if stored[benchmark.name] is None]
    fresh = tabulate([], np.empty(0), np.empty(0, np.bool_))
    if anew:
        model, encoding = judged.model
        pairs = [encode_pair(encoding, *request) for benchmark in anew for request in benchmark.requests()]
        nats, misses = score_continuations(model, pairs, autocast=autocast_type(precision))
        fresh = tabulate(anew, nats, misses == 0)
    tables = (stored[benchmark.name] or fresh.of_benchmark(benchmark.name) for benchmark in benchmarks)
    return Items.join([fresh.take(np.arange(0)), *tables])


def _stored_answers(own: Frozen | None, benchmark: Benchmark) -> Items | None:
    """Return the rows of a benchmark's items in their order, if all were asked word for word and after the same examples."""
    asked = own.benchmarks.get(benchmark.name) if own else None
    if own is None or asked is None or asked.prefix != benchmark.prefix:
        return None
    texts = {item.id: item for item in asked.items}
    if any(texts.get(item.id) != item for item in benchmark.items):
        return None
    rows = own.items.of_benchmark(benchmark.name)
    places = {name: place for place, name in enumerate(rows.id.tolist())}
    found = rows.take(np.array([places[item.id] for item in benchmark.items], np.int64))
    return replace(found, clean=np.array(benchmark.clean, np.bool_))


def differences(candidate: Scores, champion: Scores, *, seed: int, confidence: float) -> dict[str, Difference]:
    """Return by metric how much better the candidate is: on all passages, and on the items that neither has learned from."""
    found = {
        TEST_BITS_PER_BYTE: compare_passages(candidate.passages, champion.passages, seed=seed, confidence=confidence)
    }
    assert candidate.items.id.tolist() == champion.items.id.tolist(), "both were asked the same, in one order"
    clean = np.flatnonzero(candidate.items.clean & champion.items.clean)
    if len(clean):
        compared = compare_items(
            candidate.items.take(clean), champion.items.take(clean), seed=seed, confidence=confidence
        )
        for benchmark, metrics in compared.items():
            found |= {f"{benchmark}.{metric}": difference for metric, difference in metrics.items()}
    return found
