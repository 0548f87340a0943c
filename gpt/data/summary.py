"""What `prepare` did to the documents, added up from its tasks' reports: counts for machines, examples for people."""

from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from gpt.data.decontamination import Matcher, plant, summarise
from gpt.data.shards import SPLITS
from gpt.data.work import add_up, read_reports
from gpt.files import read_json
from gpt.params import Prepare

_SHOWN_MATCHES = 200
_SHOWN_EXAMPLES = 5
_NAMED = 1000


def summarise_corpus(
    settings: Prepare, owners: list[tuple[str, Path]], benchmarks: list[Path], work: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return counts (documents and bytes through each step), and a report with examples of what each step removed."""
    read = add_up(read_reports(work / "read"))
    duplicates = add_up(
        report for name in ("held_out", "train") for report in read_reports(work / f"duplicates_{name}")
    )
    contaminated = add_up(read_reports(work / "matches")) or {}
    judges = summarise(owners, work / "index", work / "matches")
    dropped: dict[str, dict[str, int]] = {
        **{
            f"malformed: {reason}": {"documents": count, "bytes": 0}
            for reason, count in read["read"]["rejected"].items()
        },
        **read["clean"]["dropped"],
        **read["filters"]["dropped"],
        **duplicates["dropped"],
    }
    if "drop" in contaminated:
        dropped["contaminated"] = {key: contaminated["drop"][key] for key in ("documents", "bytes")}
    counts = {
        "read": {
            "documents": sum(read["read"]["documents"].values()),
            "bytes": sum(read["read"]["bytes"].values()),
            "by_source": {
                name: {"documents": count, "bytes": read["read"]["bytes"][name]}
                for name, count in read["read"]["documents"].items()
            },
        },
        "dropped": dropped,
        "cut": {key: contaminated.get("cut", {}).get(key, 0) for key in ("documents", "bytes", "pieces")},
        "contamination": {
            name: {"items": entry["items"], "touched": len(entry["touched"]), "unprotected": len(entry["unprotected"])}
            for name, entry in judges.items()
        },
        "planted": plant(
            benchmarks or [path for _, path in owners],
            Matcher(work / "index", settings.decontaminate.ngram),
            settings.decontaminate.ngram,
            settings.split_seed,
        ),
        **{split: _split(work, split) for split in SPLITS},
    }
    examples = {
        **read["read"]["examples"],
        **read["clean"]["examples"],
        **read["filters"]["examples"],
        **duplicates["examples"],
    }
    report = {
        "examples": {reason: shown[:_SHOWN_EXAMPLES] for reason, shown in examples.items()},
        "matches": _matches(work / "matches"),
        "contaminated": {
            name: {"touched": entry["touched"][:_NAMED], "unprotected": entry["unprotected"][:_NAMED]}
            for name, entry in judges.items()
        },
        "sources": {
            split: {
                source: {key: count for key, count in entry.items() if key != "hash"}
                for source, entry in add_up(read_reports(work / "written" / split)).items()
            }
            for split in SPLITS
        },
    }
    return counts, report


def describe_inputs(settings: Prepare, raw: Path, benchmarks: Path) -> dict[str, Any]:
    """Return what the documents are made of: settings that decide them, sources and benchmarks with licence and hash."""
    listing = read_json(raw / "sources.json", "run `gpt fetch` first")
    described = benchmarks / "benchmarks.json"
    return {
        "settings": settings.model_dump(mode="json", exclude={"engine"}),
        "fetched": [
            {key: source.get(key, "") for key in ("name", "licence", "sha256")}
            | {"files": len(source["files"]), "bytes": sum(file.get("bytes", 0) for file in source["files"].values())}
            for source in listing
        ],
        "benchmarks": read_json(described, "run `gpt fetch` again") if described.exists() else {},
    }


def _split(work: Path, split: str) -> dict[str, Any]:
    total: Counter[str] = Counter()
    sources = add_up(read_reports(work / "written" / split))
    for counts in sources.values():
        total.update(counts)
    sizes = {key: total[key] for key in ("documents", "characters", "bytes", "words")}
    by_source = {name: {key: counts[key] for key in ("documents", "bytes")} for name, counts in sources.items()}
    return sizes | {"sha256": f"{total['hash'] % 2**256:064x}", "by_source": by_source}


def _matches(folder: Path) -> list[dict[str, Any]]:
    """Return the first matches of every benchmark and split, the longest first."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            found += map(orjson.loads, file)
            found = sorted(found, key=lambda match: (-match["words"], match["document"], match["text"]))[
                :_SHOWN_MATCHES
            ]
    return found
