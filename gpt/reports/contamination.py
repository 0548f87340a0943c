"""What the data card says of contamination: leaks that were found, and what many training documents share, which is none."""

from collections import Counter
from html import escape
from typing import Any

from gpt.params.sources import Source
from gpt.reports.page import percent, quote, short_hash, table

_ID_CHARACTERS = 24
_SHOWN_MATCHES = 10  # of each benchmark and split
_ACTIONS = {"cut": "passage cut", "drop": "document dropped", "report": "left as it is"}

Json = dict[str, Any]


def describe_contamination(report: Json, fetched: dict[str, Source]) -> str:
    """Return the card's section on it: what was met of whom, the longest matches, and what is left alone."""
    counts = report["counts"]

    def sources_of(benchmark: str) -> list[str]:
        return report["benchmarks"].get(benchmark, {}).get("sources", [])

    rows = [
        [
            name,
            ", ".join(sorted({fetched[of].licence if of in fetched else "unknown" for of in sources_of(name)})),
            entry["items"],
            entry["touched"],
            percent(entry["touched"], entry["items"]),
            entry["unprotected"],
            entry["common"],
        ]
        for name, entry in counts["contamination"].items()
    ]
    matches = [
        [
            match["words"],
            quote(match["text"]),
            "; ".join(
                f"{name}: {', '.join(item.removeprefix(f'{name}/')[:_ID_CHARACTERS] for item in items)}"
                for name, items in match["in"].items()
            ),
            _ACTIONS.get(match["action"], match["action"]),
            match["source"],
            short_hash(match["document"]),
        ]
        for match in _longest(report["matches"])
    ]
    common = [
        [passage["documents"], passage["words"], quote(passage["text"]), ", ".join(passage["in"])]
        for passage in report["common"]
    ]
    settings = report["settings"]["decontaminate"]
    actions, limit = settings["action"], settings["max_documents"]
    head = [
        "benchmark or split",
        "licence",
        "items",
        "met in training text",
        "share",
        "too short to protect",
        "too common",
    ]
    return (
        f"<p>A training document that has {settings['ngram']:,} words in a row with an item of a benchmark:"
        f" {escape(_ACTIONS[actions['benchmarks']])}; with a validation or test document:"
        f" {escape(_ACTIONS[actions['held_out']])}.</p>\n"
        + table(head, rows)
        + "<h3>Longest matches</h3>\n"
        + table(["words", "text", "is in", "what was done", "source", "document"], matches)
        + "<h3>What many training documents share</h3>\n"
        + (f"<p>No leak is what more than {limit:,} have: {counts['common_ngrams']:,} n-grams.</p>\n" if limit else "")
        + table(["training documents", "words", "text", "is in"], common)
    )


def _longest(matches: list[Json]) -> list[Json]:
    """Return the longest matches with each benchmark and split, the longest first, as they come."""
    shown: Counter[str] = Counter()
    chosen = []
    for match in matches:
        if any(shown[name] < _SHOWN_MATCHES for name in match["in"]):
            shown.update(match["in"].keys())
            chosen.append(match)
    return chosen
