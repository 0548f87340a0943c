"""What MLflow is told of the data that a run learns from: their hash, sources, sizes, and what of them was contaminated."""

import json
from pathlib import Path
from typing import Any

from gpt.corpus.splits import SPLITS
from gpt.params.sources import Source
from gpt.tokens.shards import data_id, read_index

# What MLflow's tables hold (mlflow/utils/validation.py).
_DIGEST_CHARACTERS = 36
_SOURCE_CHARACTERS = 65535

Json = dict[str, Any]


def describe_dataset(name: str, documents: Path, tokens: Path, fetched: dict[str, Source]) -> Json:
    """Return the data of the folder `tokens` as MLflow takes a dataset: name, digest, source, profile (JSON texts), tags.

    `fetched` are the sources of params.yaml by their names. Without the folder `documents` that they were made of, sources and
    contamination are not known and left out.
    """
    index, digest = read_index(tokens), data_id(tokens)
    report = read_report(documents, tokens)
    splits = {
        split: {key: index["splits"][split][key] for key in ("documents", "tokens", "bytes", "documents_sha256")}
        for split in SPLITS
    }
    sources = [
        {"name": source.name, source.identity_key: source.identity, "licence": source.licence}
        for entry in report.get("fetched", ())
        if (source := fetched.get(entry["name"]))
    ]
    source = json.dumps({"sources": sources})
    if len(source) > _SOURCE_CHARACTERS:
        source = json.dumps({"sources": f"{len(sources)}, listed in data.html"})
    contamination = report.get("counts", {}).get("contamination", {})
    return {
        "name": name,
        "digest": digest[:_DIGEST_CHARACTERS],
        "source": source,
        "profile": json.dumps({"splits": splits, "contamination": contamination}),
        "tags": {"data_sha256": digest},
    }


def describe_contamination(documents: Path, tokens: Path) -> str | None:
    """Return how many items of each benchmark and split training documents had a passage of, and what was done about it.

    As in `hellaswag 3/10042, test 0/2; benchmarks cut, held_out report`. None if the documents of `tokens` are not at hand.
    """
    if not (report := read_report(documents, tokens)):
        return None
    found = (f"{name} {entry['touched']}/{entry['items']}" for name, entry in report["counts"]["contamination"].items())
    actions = report["settings"]["decontaminate"]["action"]
    return f"{', '.join(found)}; {', '.join(f'{whose} {action}' for whose, action in actions.items())}"


def read_card(card: Path, tokens: Path) -> str | None:
    """Return the data card, if there is one of these very tokens."""
    if not card.exists():
        return None
    html = card.read_text(encoding="utf-8")
    return html if data_id(tokens) in html else None


def read_report(documents: Path, tokens: Path) -> Json:
    """Return report.json of the documents that `tokens` were made of, nothing if they are not at hand."""
    path = documents / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        made_of = {split: report["counts"][split]["sha256"] for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError):  # training needs the tokens only
        return {}
    splits = read_index(tokens)["splits"]
    return report if all(splits[split]["documents_sha256"] == made_of[split] for split in SPLITS) else {}
