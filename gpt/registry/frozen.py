"""What a version was judged on, kept with it: test documents, benchmark items, and what the model scored on each.

Data moves on: documents are added, a split changes, a benchmark is dropped. A later candidate is judged on the very texts that the
champion was judged on, so the texts stay with the version, in its MLflow model under `artifacts/evaluation/`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from gpt import paths
from gpt.code import stage_identity
from gpt.corpus.documents import read_documents
from gpt.errors import UserError
from gpt.evaluation.benchmarks.figures import tabulate
from gpt.evaluation.benchmarks.items import Benchmark, read_all
from gpt.evaluation.held_out import sum_of_hashes
from gpt.evaluation.scores import ITEMS_FILE, PASSAGES_FILE, Items, Passages
from gpt.files import read_json, sha256_file, sha256_json, write_json
from gpt.params.evaluation import Evaluate
from gpt.registry.disclosure import check_texts
from gpt.registry.versions import evaluation_folder
from gpt.secrets.hiding import redact_values
from gpt.sources.items import Item, read_items

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_DOCUMENTS, _SAMPLES, _CONTENTS = "documents.parquet", "samples.json", "contents.json"
_ITEMS, _EXAMPLES = "items", "examples"
"Folders of files as in data/benchmarks: what was asked, and the solved examples that stood before it."
_TEST = "test"
_AGAIN = "run `gpt evaluate` again"
_DOCUMENT_SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("text", pa.string())])
_DOCUMENTS_AT_ONCE = 1000

Json = dict[str, Any]


@dataclass(frozen=True)
class Frozen:
    """What a version was judged on, read from a local folder."""

    folder: Path
    documents_sha256: str
    "Of the set of test documents, as documents.json names one."
    scored_with: str
    "Hash of what its scores depend on besides model and texts; see `scoring_identity`."

    @cached_property
    def passages(self) -> Passages:
        """Return what the version scored on its test documents, by document and place."""
        table = Passages.read(self.folder / PASSAGES_FILE, "register the model again").of_split(_TEST)
        return sort_passages(table)

    @cached_property
    def items(self) -> Items:
        return Items.read(self.folder / ITEMS_FILE, "register the model again")

    @cached_property
    def benchmarks(self) -> dict[str, Benchmark]:
        """Return by name what the version was asked, word for word, and which of it its training documents had no passage of."""
        found: dict[str, Benchmark] = {}
        for path in sorted((self.folder / _ITEMS).glob("*.jsonl")):
            asked = self.items.of_benchmark(path.stem)
            clean = dict(zip(asked.id.tolist(), asked.clean.tolist(), strict=True))
            items, examples = list(read_items(path)), self.folder / _EXAMPLES / path.name
            solved = tuple(read_items(examples)) if examples.exists() else ()
            found[path.stem] = Benchmark(path.stem, items, [clean[item.id] for item in items], solved)
        return found

    def documents(self) -> Iterator[Json]:
        """Yield the test documents: id, source, text."""
        for batch in pq.ParquetFile(self.folder / _DOCUMENTS).iter_batches(_DOCUMENTS_AT_ONCE):
            yield from batch.to_pylist()


def scoring_identity(precision: str) -> str:
    """Return a hash of what scores depend on besides model and texts: two that differ in it are not compared."""
    return sha256_json([precision, stage_identity("evaluate")])


def sort_passages(table: Passages) -> Passages:
    """Return the passages by document and place: the order of files is another one where data was prepared in other shards."""
    order = np.lexsort((table.start, table.document.astype(str)))
    return Passages(*(getattr(table, name)[order] for name in Passages.SCHEMA.names))


def write_frozen(project: Path, settings: Evaluate, evaluation: Json, folder: Path) -> None:
    """Write the folder `evaluation` of a project's model: `evaluation` is its reports/evaluate.json.

    Raises `UserError` if the scores are missing or not of this evaluation, the documents or items that they are of are not at
    hand, or one of them seems to hold a secret.
    """
    passages = _read_passages(project, evaluation)
    scored = set(passages.of_split(_TEST).document.tolist())
    documents = _documents(project, evaluation, scored)
    items, benchmarks = _items(project, settings)
    asked = {
        _ITEMS: [benchmark.items for benchmark in benchmarks],
        _EXAMPLES: [list(each.examples) for each in benchmarks],
    }
    check_texts("test document", ((document["id"], document["text"]) for document in documents))
    check_texts("item", (text for lists in asked.values() for each in lists for item in each for text in _texts(item)))
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(documents, _DOCUMENT_SCHEMA), folder / _DOCUMENTS, compression="zstd")
    for name, lists in asked.items():
        for each in filter(None, lists):
            (folder / name).mkdir(exist_ok=True)
            lines = b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in each)
            (folder / name / f"{each[0].benchmark}.jsonl").write_bytes(lines)
    passages.write(folder / PASSAGES_FILE)
    items.write(folder / ITEMS_FILE)
    samples = read_json_list(project / paths.SAMPLES)
    (folder / _SAMPLES).write_text(json.dumps(redact_values(samples), indent=2) + "\n", encoding="utf-8")
    write_contents(
        folder,
        {
            "documents_sha256": evaluation[_TEST]["documents_sha256"],
            "precision": settings.precision,
            "scored_with": scoring_identity(settings.precision),
        },
    )


def write_contents(folder: Path, about: Json) -> None:
    """Complete the folder `evaluation` of a version: `about` and the hashes of its files; `scored_with` says how it was scored."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    write_json(folder / _CONTENTS, about | {"files": hashes})


def read_contents(client: "MlflowClient", version: "ModelVersion") -> tuple[Path, Json] | None:
    """Return the local folder of what a version was judged on, and what `write_contents` was told of it.

    None if an earlier release registered it; raises `UserError` if a file is damaged.
    """
    folder = evaluation_folder(client, version)
    if folder is None:
        return None
    again = f"of models:/{version.name}/{version.version}: delete {folder} if it is a copy, or register the model again"
    contents = read_json(folder / _CONTENTS, again, ["files"])
    for name, sha256 in contents["files"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            raise UserError(f"{folder / name}: missing or damaged, {again}")
    return (folder, contents) if "scored_with" in contents else None


def read_frozen(client: "MlflowClient", version: "ModelVersion") -> Frozen | None:
    """Return what a version was judged on, None if an earlier release registered it; raise `UserError` if a file is damaged."""
    if (found := read_contents(client, version)) is None:
        return None
    folder, contents = found
    return Frozen(folder, contents["documents_sha256"], contents["scored_with"])


def keeps_frozen(client: "MlflowClient", version: "ModelVersion") -> bool:
    """Whether a version holds, undamaged, what it was judged on."""
    try:
        return read_contents(client, version) is not None
    except UserError:
        return False


def _read_passages(project: Path, evaluation: Json) -> Passages:
    path = project / paths.SCORES / PASSAGES_FILE
    passages = Passages.read(path, _AGAIN)
    test = passages.of_split(_TEST)
    figures = evaluation[_TEST]
    nats = figures["loss"] * figures["tokens"]
    if int(test.bytes.sum()) != figures["bytes"] or abs(float(test.nats.sum()) - nats) > 1e-6 * nats:
        raise UserError(f"{path}: not the scores of {project / paths.EVALUATION}; {_AGAIN}")
    return passages


def _documents(project: Path, evaluation: Json, scored: set[str]) -> list[Json]:
    """Return the test documents that were scored; raise `UserError` if data/documents holds others."""
    folder = project / paths.DOCUMENTS
    found = [
        {key: document[key] for key in ("id", "source", "text")}
        for document in read_documents(folder, _TEST)
        if document["id"] in scored
    ]
    digests = (hashlib.sha256(document["text"].encode()).digest() for document in found)
    if sum_of_hashes(digests) != evaluation[_TEST]["documents_sha256"]:
        raise UserError(f"{folder}: holds other test documents than the model was measured on; {_AGAIN}")
    return sorted(found, key=lambda document: document["id"])


def _items(project: Path, settings: Evaluate) -> tuple[Items, list[Benchmark]]:
    """Return what was scored on benchmarks, and what was asked; nothing of both if params.yaml names none.

    Raises `UserError` if the scores are of other items than those that params.yaml asks.
    """
    path = project / paths.SCORES / ITEMS_FILE
    benchmarks = read_all(settings, project / paths.BENCHMARKS, project / paths.DOCUMENTS)
    if not benchmarks and not path.exists():
        return tabulate([], np.empty(0), np.empty(0, np.bool_)), []
    items = Items.read(path, _AGAIN)
    scored = zip(items.benchmark.tolist(), items.id.tolist(), (each.tolist() for each in items.bytes), strict=True)
    asked = [
        (item.benchmark, item.id, [len(choice.continuation.encode()) for choice in item.choices])
        for benchmark in benchmarks
        for item in benchmark.items
    ]
    if sorted(scored) != sorted(asked):
        raise UserError(f"{path}: not the answers to what evaluate in params.yaml asks; {_AGAIN}")
    return items, benchmarks


def _texts(item: Item) -> Iterator[tuple[str, str]]:
    """Yield all text of an item, each with the item's id."""
    for text in (*item.texts, *(choice.context + choice.continuation for choice in item.choices)):
        yield item.id, text


def read_json_list(path: Path) -> list[Any]:
    """Return what `gpt evaluate` wrote to reports/samples.json."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
