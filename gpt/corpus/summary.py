"""What `prepare` did to the documents, added up from its tasks' reports: counts for machines, examples for people."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gpt.corpus.arrays import sort_unique
from gpt.corpus.boilerplate import common_grams
from gpt.corpus.decontamination import BENCHMARKS, Judges
from gpt.corpus.index import HASH, Matcher, find_owners, read_items
from gpt.corpus.splits import SPLITS
from gpt.corpus.words import split_words, word_spans
from gpt.errors import UserError
from gpt.files import read_json
from gpt.params.corpus import Prepare
from gpt.tasks.reports import add_up, read_reports

_SHOWN_MATCHES = 20  # per benchmark or split
_SHOWN_COMMON = 20
_SHOWN_CHARACTERS = 300
_CANDIDATES = 1 << 16  # n-grams of which the passages that are shown are made
_SHOWN_EXAMPLES = 5
_SHOWN_IDS = 1000

Json = dict[str, Any]


def summarise_corpus(judges: list[Judges], work: Path, ngram: int) -> tuple[Json, Json]:
    """Return counts (documents and bytes through each step), and a report with examples of what each step removed."""
    read, dropped, examples, masked = _read(work)
    for folder in ("duplicates_held_out", "duplicates_train"):
        for reason, entry in add_up(read_reports(work / folder)).items():
            examples.setdefault(reason, []).extend(entry.pop("examples"))
            dropped[reason] = add_up([dropped.get(reason), entry])
    contaminated = add_up(read_reports(work / "matches")) or {}
    if "drop" in contaminated:
        dropped["contaminated"] = {key: contaminated["drop"][key] for key in ("documents", "bytes")}
    judged = {name: entry for each in judges for name, entry in _judged(each, work).items()}
    benchmarks = {name for each in judges if each.kind == BENCHMARKS for name, _ in each.owners}
    counts = {
        "read": read,
        "dropped": dropped,
        "cut": {key: contaminated.get("cut", {}).get(key, 0) for key in ("documents", "bytes", "pieces")},
        **({"masked": masked} if masked else {}),
        "contamination": {
            name: {key: value if key == "items" else len(value) for key, value in entry.items()}
            for name, entry in judged.items()
        },
        "common_ngrams": len(common_grams(work / "common")),
        **{split: _split(work, split) for split in SPLITS},
    }
    report = {
        "counts": counts,
        "examples": {reason: shown[:_SHOWN_EXAMPLES] for reason, shown in examples.items() if shown},
        "matches": sorted((match for each in judges for match in _matches(work / "matches", each)), key=_longest_first),
        "common": _common(judges, work / "common", ngram),
        "contaminated": {
            # Of benchmarks all items that were met: their scores count apart.
            name: {
                key: ids if key == "touched" and name in benchmarks else ids[:_SHOWN_IDS]
                for key, ids in entry.items()
                if key != "items"
            }
            for name, entry in judged.items()
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


def check_splits(settings: Prepare, counts: Json, matches: list[Json]) -> None:
    """Raise `UserError` that names the cause if a split is empty."""
    read, kept = counts["read"]["documents"], sum(counts[split]["documents"] for split in SPLITS)
    dropped = {reason: entry["documents"] for reason, entry in counts["dropped"].items() if entry["documents"]}
    reasons = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in dropped.items())
    if not read:
        raise UserError("data/raw: holds no document with text; check fetch.sources in params.yaml")
    if not counts["train"]["documents"] and dropped.get("contaminated"):
        raise UserError(
            f"params.yaml: prepare.decontaminate drops all {dropped['contaminated']:,} training documents, which share"
            f" {settings.decontaminate.ngram} words in a row with what judges the model, such as {matches[0]['text'][:80]!r};"
            f" lower prepare.decontaminate.max_documents (now {settings.decontaminate.max_documents}) if that is boilerplate,"
            " set prepare.decontaminate.action.held_out or .benchmarks to report, or add documents"
        )
    if not kept:
        raise UserError(f"params.yaml: prepare drops all {read:,} documents ({reasons}); change what drops them")
    for split in SPLITS:
        if not counts[split]["documents"]:
            raise UserError(f"params.yaml: prepare: {split} is empty: {_why_empty(settings, split, kept, reasons)}")


def _why_empty(settings: Prepare, split: str, kept: int, reasons: str) -> str:
    left = f"after what goes ({reasons}; change what drops them if that is wrong) " if reasons else ""
    if given := [name for name in settings.by_source if settings.of(name).split == split]:
        return f"{left}none of the documents of {', '.join(given)} is left, which prepare.by_source gives as {split}"
    if settings.hold_out == "ends":
        return (
            f"{left}no end of a document is left to hold out; raise the fractions, or set prepare.hold_out: documents"
        )
    if kept == 1:
        return (
            f"{left}there is one document, and a document is in one split; say where the documents of its file begin with"
            " prepare.read.separator or prepare.read.pattern, or hold out its end with prepare.hold_out: ends"
        )
    return (
        f"{left}none of {kept:,} documents falls into it; change prepare.split_seed or the fractions, add documents, or hold out"
        " the end of each with prepare.hold_out: ends"
    )


def _read(work: Path) -> tuple[Json, Json, dict[str, list[Any]], Json]:
    """Return what was read, what was dropped, with examples, before documents were compared, and how much was masked."""
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
    return read, dropped, examples, report["clean"]["masked"]


def describe_inputs(settings: Prepare, raw: Path, benchmarks: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what the documents are made of: settings that decide them, sources, and the benchmarks `names` with their hashes."""
    listing = read_json(raw / "sources.json", "run `gpt fetch` first")
    described = read_json(benchmarks / "benchmarks.json", "run `gpt fetch` again", names)
    return {
        "settings": settings.model_dump(mode="json", exclude={"engine"}),
        "fetched": [
            {
                "name": source["name"],
                "files": len(source["files"]),
                "bytes": sum(file.get("bytes", 0) for file in source["files"].values()),
            }
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


def _judged(judges: Judges, work: Path) -> dict[str, Json]:
    """Return by benchmark or split: its items; those that training documents shared an n-gram with; those that cannot be found.

    `unprotected` are too short, `common` are those of which no n-gram is left between what many training documents share.
    """
    seen = [np.fromfile(path, HASH) for path in sorted((work / "matches" / judges.kind).glob("*.hashes"))]
    (touched,) = find_owners(judges.index, [sort_unique(np.concatenate(seen))])
    reports = zip(
        judges.owners, read_reports(judges.index), read_reports(work / "unprotected" / judges.kind), strict=True
    )
    summary: dict[str, Json] = {}
    for number, ((name, path), indexed, common) in enumerate(reports):
        entry = summary.setdefault(name, {"items": 0, "touched": [], "unprotected": [], "common": []})
        entry["items"] += indexed["items"]
        entry["unprotected"] += indexed["unprotected"]
        entry["common"] += common
        if number in touched:
            numbers = set(touched[number].tolist())
            entry["touched"] += [item["id"] for place, item in enumerate(read_items(path)) if place in numbers]
    return summary


def _matches(folder: Path, judges: Judges) -> list[Json]:
    """Return the longest matches with every benchmark or split, each with the ids of the items that it is in."""
    owners = judges.owners
    longest: dict[str, list[Json]] = defaultdict(list)
    for path in sorted((folder / judges.kind).glob("*.jsonl")):
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
    return list(shown.values())


def _longest_first(match: Json) -> tuple[Any, ...]:
    return -match["words"], match["document"], match["text"]


def _common(judges: list[Judges], folder: Path, ngram: int) -> list[Json]:
    """Return the passages that most training documents share and that are left alone, with the benchmarks or splits that have them.

    Only their n-grams are known: a passage is shown as the first item that has it.
    """
    grams = common_grams(folder)
    most = np.argsort(-grams["documents"].astype(np.int64), kind="stable")[:_CANDIDATES]
    left, matcher, shown = np.array(grams[most]), Matcher(folder, ngram), list[Json]()
    while len(left) and len(shown) < _SHOWN_COMMON:
        gram, documents = left[0]
        owners = [
            (name, path, int(items[0]))
            for each in judges
            for number, items in find_owners(each.index, [left["gram"][:1]])[0].items()
            for name, path in [each.owners[number]]
        ]
        words, text, hashes = _passage(gram, owners[0][1], owners[0][2], matcher)
        left = left[~np.isin(left["gram"], hashes)]
        names = sorted({name for name, *_ in owners})
        shown.append({"documents": int(documents), "words": words, "text": text, "in": names})
    return shown


def _passage(gram: np.uint64, path: Path, number: int, matcher: Matcher) -> tuple[int, str, np.ndarray]:
    """Return the passage of an owner's item that has an n-gram: its number of words, its beginning, its n-grams."""
    item = next(item for place, item in enumerate(read_items(path)) if place == number)
    for text in item["texts"]:
        for match in matcher.find(split_words(text)):
            if gram in match.hashes:
                spans = word_spans(text)
                start, end = spans[match.first][0], spans[match.last - 1][1]
                return match.last - match.first, text[start : min(end, start + _SHOWN_CHARACTERS)], match.hashes
    raise AssertionError(f"{path}: item {number} has the n-gram {gram}")
