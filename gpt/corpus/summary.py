"""What `prepare` did to the documents, added up from its tasks' reports: counts for machines, examples for people."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import orjson

from gpt.corpus.decontamination import plant, summarise
from gpt.corpus.index import Matcher, read_items
from gpt.corpus.splits import SPLITS
from gpt.files import read_json
from gpt.params.corpus import Prepare
from gpt.tasks.reports import add_up, read_reports

_SHOWN_MATCHES = 20  # per benchmark or split
_SHOWN_EXAMPLES = 5
_NAMED = 1000


def summarise_corpus(
    settings: Prepare, owners: list[tuple[str, Path]], benchmarks: list[Path], work: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return counts (documents and bytes through each step), and a report with examples of what each step removed."""
    read, dropped, examples = _read(work)
    for folder in ("duplicates_held_out", "duplicates_train"):
        for reason, entry in add_up(read_reports(work / folder)).items():
            examples.setdefault(reason, []).extend(entry.pop("examples"))
            dropped[reason] = add_up([dropped.get(reason), entry])
    contaminated = add_up(read_reports(work / "matches")) or {}
    if "drop" in contaminated:
        dropped["contaminated"] = {key: contaminated["drop"][key] for key in ("documents", "bytes")}
    judges = summarise(owners, work / "index", work / "matches")
    ngram = settings.decontaminate.ngram
    planted = plant(
        benchmarks or [path for _, path in owners], Matcher(work / "index", ngram), ngram, settings.split_seed
    )
    counts = {
        "read": read,
        "dropped": dropped,
        "cut": {key: contaminated.get("cut", {}).get(key, 0) for key in ("documents", "bytes", "pieces")},
        "contamination": {
            name: {"items": entry["items"], "touched": len(entry["touched"]), "unprotected": len(entry["unprotected"])}
            for name, entry in judges.items()
        },
        "planted": planted,
        **{split: _split(work, split) for split in SPLITS},
    }
    report = {
        "counts": counts,
        "examples": {reason: shown[:_SHOWN_EXAMPLES] for reason, shown in examples.items() if shown},
        "matches": _matches(work / "matches", owners),
        "contaminated": {
            name: {key: entry[key][:_NAMED] for key in ("touched", "unprotected")} for name, entry in judges.items()
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


def _read(work: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[Any]]]:
    """Return what was read, and what was dropped, with examples, before documents were compared."""
    report = add_up(read_reports(work / "read"))
    reader, filters = report["read"], report["filters"]
    by_source = {
        name: {"documents": count, "bytes": reader["read_bytes"][name]} for name, count in reader["read"].items()
    }
    read = {
        **{key: sum(entry[key] for entry in by_source.values()) for key in ("documents", "bytes")},
        "by_source": by_source,
    }
    # Records that cannot be read and empty ones are no documents: they are not among those read.
    dropped: dict[str, Any] = {
        f"malformed: {reason}": {"documents": count, "bytes": 0} for reason, count in reader["rejected"].items()
    }
    examples: dict[str, list[Any]] = {f"malformed: {reason}": shown for reason, shown in reader["examples"].items()}
    dropped["empty"] = {"documents": sum(reader["empty"].values()) + report["clean"]["empty"], "bytes": 0}
    for kind, reasons in filters.items():
        for reason, entry in reasons.items():
            examples[f"{kind}: {reason}"] = entry.pop("examples")
            dropped[f"{kind}: {reason}"] = entry
    return read, dropped, examples


def describe_inputs(settings: Prepare, raw: Path, benchmarks: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what the documents are made of: settings that decide them, sources, and the benchmarks `names`, with their hashes."""
    listing = read_json(raw / "sources.json", "run `gpt fetch` first")
    described = read_json(benchmarks / "benchmarks.json", "run `gpt fetch` again", names)
    return {
        "settings": settings.model_dump(mode="json", exclude={"engine"}),
        "fetched": [
            {key: source.get(key, "") for key in ("name", "sha256")}
            | {"files": len(source["files"]), "bytes": sum(file.get("bytes", 0) for file in source["files"].values())}
            for source in listing
        ],
        "benchmarks": {name: described[name] for name in names},
    }


def _split(work: Path, split: str) -> dict[str, Any]:
    total: Counter[str] = Counter()
    sources = add_up(read_reports(work / "written" / split))
    for counts in sources.values():
        total.update(counts)
    sizes = {key: total[key] for key in ("documents", "characters", "bytes", "words")}
    by_source = {name: {key: counts[key] for key in ("documents", "bytes")} for name, counts in sources.items()}
    return sizes | {"sha256": f"{total['hash'] % 2**256:064x}", "by_source": by_source}


def _matches(folder: Path, owners: list[tuple[str, Path]]) -> list[dict[str, Any]]:
    """Return the longest matches with every benchmark and split, each with the ids of the items that it is in."""
    longest: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for match in map(orjson.loads, file):
                for name in {owners[number][0] for number, _ in match["in"]}:
                    kept = longest[name]
                    kept.append(match)
                    if len(kept) > 2 * _SHOWN_MATCHES:
                        kept[:] = sorted(kept, key=_longest_first)[:_SHOWN_MATCHES]
    shown = {
        (match["document"], match["text"]): match
        for name in sorted(longest)
        for match in sorted(longest[name], key=_longest_first)[:_SHOWN_MATCHES]
    }
    wanted: dict[int, set[int]] = defaultdict(set)
    for match in shown.values():
        for number, item in match["in"]:
            wanted[number].add(item)
    ids = {
        (number, place): item["id"]
        for number, places in wanted.items()
        for place, item in enumerate(read_items(owners[number][1]))
        if place in places
    }
    for match in shown.values():
        held: dict[str, list[str]] = defaultdict(list)
        for number, item in match["in"]:
            held[owners[number][0]].append(ids[number, item])
        match["in"] = {name: sorted(held[name]) for name in sorted(held)}
    return sorted(shown.values(), key=_longest_first)


def _longest_first(match: dict[str, Any]) -> tuple[Any, ...]:
    return -match["words"], match["document"], match["text"]
