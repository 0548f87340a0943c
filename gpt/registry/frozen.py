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
from gpt.corpus.documents import read_documents
from gpt.errors import UserError
from gpt.evaluation.held_out import sum_of_hashes
from gpt.evaluation.scores import ITEMS_FILE, PASSAGES_FILE, Items, Passages
from gpt.files import read_json, sha256_file, write_json
from gpt.registry.disclosure import check_texts
from gpt.registry.versions import evaluation_folder
from gpt.secrets.hiding import redact_values

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_DOCUMENTS, _ITEM_TEXTS, _SAMPLES, _CONTENTS = "documents.parquet", "items.jsonl", "samples.json", "contents.json"
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
    items_sha256: str
    "Of the benchmark items, none of them included."

    @cached_property
    def passages(self) -> Passages:
        """Return what the version scored on its test documents, by document and place."""
        table = Passages.read(self.folder / PASSAGES_FILE, "register the model again").of_split(_TEST)
        return sort_passages(table)

    @cached_property
    def items(self) -> Items:
        return Items.read(self.folder / ITEMS_FILE, "register the model again")

    def documents(self) -> Iterator[Json]:
        """Yield the test documents: id, source, text."""
        for batch in pq.ParquetFile(self.folder / _DOCUMENTS).iter_batches(_DOCUMENTS_AT_ONCE):
            yield from batch.to_pylist()

    def item_texts(self) -> Iterator[Json]:
        """Yield the items in the form of data/benchmarks (gpt/sources/items.py)."""
        with (self.folder / _ITEM_TEXTS).open("rb") as file:
            yield from map(orjson.loads, file)


def sort_passages(table: Passages) -> Passages:
    """Return the passages by document and place: the order of files is another one where data was prepared in other shards."""
    order = np.lexsort((table.start, table.document.astype(str)))
    return Passages(*(getattr(table, name)[order] for name in Passages.SCHEMA.names))


def write_frozen(project: Path, evaluation: Json, folder: Path) -> None:
    """Write the folder `evaluation` of a project's model: `evaluation` is its metrics/evaluate.json.

    Raises `UserError` if the scores are missing or not of this evaluation, the documents or items that they are of are not at
    hand, or one of them seems to hold a secret.
    """
    passages = _read_passages(project, evaluation)
    scored = set(passages.of_split(_TEST).document.tolist())
    documents = _documents(project, evaluation, scored)
    items, texts = _items(project)
    check_texts("test document", ((document["id"], document["text"]) for document in documents))
    check_texts("item", ((item["id"], text) for item in texts for text in item["texts"]))
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(documents, _DOCUMENT_SCHEMA), folder / _DOCUMENTS, compression="zstd")
    (folder / _ITEM_TEXTS).write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in texts))
    passages.write(folder / PASSAGES_FILE)
    items.write(folder / ITEMS_FILE)
    samples = read_json_list(project / paths.SAMPLES)
    (folder / _SAMPLES).write_text(json.dumps(redact_values(samples), indent=2) + "\n", encoding="utf-8")
    contents = {
        "documents_sha256": evaluation[_TEST]["documents_sha256"],
        "items_sha256": sha256_file(folder / _ITEM_TEXTS),
        "files": {path.name: sha256_file(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / _CONTENTS, contents)


def read_frozen(client: "MlflowClient", version: "ModelVersion") -> Frozen | None:
    """Return what a version was judged on, None if it was registered without; raise `UserError` if a file is damaged."""
    folder = evaluation_folder(client, version)
    if folder is None:
        return None
    again = f"of models:/{version.name}/{version.version}: delete {folder} if it is a copy, or register the model again"
    contents = read_json(folder / _CONTENTS, again, ["documents_sha256", "items_sha256", "files"])
    for name, sha256 in contents["files"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            raise UserError(f"{folder / name}: missing or damaged, {again}")
    return Frozen(folder, contents["documents_sha256"], contents["items_sha256"])


def _read_passages(project: Path, evaluation: Json) -> Passages:
    path = project / paths.SCORES / PASSAGES_FILE
    passages = Passages.read(path, _AGAIN)
    test = passages.of_split(_TEST)
    figures = evaluation[_TEST]
    nats = figures["loss"] * figures["tokens"]
    if int(test.bytes.sum()) != figures["bytes"] or abs(float(test.nats.sum()) - nats) > 1e-6 * nats:
        raise UserError(f"{path}: not the scores of {project / paths.EVALUATE_METRICS}; {_AGAIN}")
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


def _items(project: Path) -> tuple[Items, list[Json]]:
    """Return what was scored on benchmarks, and the items themselves; nothing of both if none was scored."""
    path = project / paths.SCORES / ITEMS_FILE
    if not path.exists():
        return empty_items(), []
    items = Items.read(path, _AGAIN)
    wanted = set(zip(items.benchmark, items.id, strict=True))
    found: list[Json] = []
    for benchmark in sorted(set(items.benchmark)):
        file = project / paths.BENCHMARKS / f"{benchmark}.jsonl"
        if file.exists():  # the network's are not: their items cannot be kept
            with file.open("rb") as lines:
                found += [item for item in map(orjson.loads, lines) if (benchmark, item["id"]) in wanted]
    return items, sorted(found, key=lambda item: (item["benchmark"], item["id"]))


def empty_items() -> Items:
    """Return a table of no items: no benchmark was named."""
    none = np.empty(0)
    text, number, truth = none.astype(np.str_), none.astype(np.int64), none.astype(np.bool_)
    return Items(text, text, truth, number, none, [], [], truth)


def read_json_list(path: Path) -> list[Any]:
    """Return what `gpt evaluate` wrote to reports/samples.json."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
