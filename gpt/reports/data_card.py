"""reports/data.html: what the data is, where it comes from and what became of it, as one page that needs nothing else.

It is made of data/documents/report.json, data/tokens/index.json and params.yaml alone: the same data make the same file.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

from gpt.corpus.splits import SPLITS
from gpt.files import atomic_file, read_json
from gpt.params.project import Params
from gpt.params.sources import Source
from gpt.params.types import flatten
from gpt.reports.contamination import describe_contamination
from gpt.reports.page import (
    NONE,
    Markup,
    escape_text,
    percent,
    pictures_in_a_row,
    quote,
    render,
    shares_of,
    short_hash,
    table,
)
from gpt.reports.pictures import draw_lengths, draw_steps, short_number
from gpt.tokens.shards import data_id, read_index

_KEYS = ("fetched", "benchmarks", "settings", "counts", "examples", "matches", "common", "sources")

Json = dict[str, Any]


def write_card(params: Params, documents: Path, tokens: Path, output: Path) -> None:
    """Write the card of the data in `documents` and `tokens`, made with these settings, to the file `output`.

    Raises `UserError` if one of them is missing.
    """
    report = read_json(documents / "report.json", "run `gpt prepare` again", _KEYS)
    index = read_index(tokens)
    digest = data_id(tokens)
    fetched = params.fetch.by_name()
    settings = {
        "prepare": report["settings"],
        "tokenizer": params.section("tokenizer"),
        "tokenize": params.section("tokenize"),
    }
    flat = {key: value for section, values in settings.items() for key, value in flatten(values, section).items()}
    sections = {
        "Sources": _sources(report, index, fetched),
        "From raw files to documents": _steps(report["counts"], report["settings"]["hold_out"]),
        "Splits": _splits(report["counts"], index),
        "Lengths": _lengths(report["sources"], index),
        "Tokens": _tokens(index),
        "Duplicates": _duplicates(report["counts"]),
        "Contamination": describe_contamination(report, fetched),
        "Examples of what was removed": _examples(report["examples"]),
        "Settings": table(["key", "value"], [[key, _value(value)] for key, value in flat.items()]),
        "Hashes": _hashes(digest, report, index, fetched),
    }
    with atomic_file(output) as partial:
        partial.write_text(render("Data card", _summary(digest, report, index), sections), encoding="utf-8")


def _summary(digest: str, report: Json, index: Json) -> str:
    counts = report["counts"]
    documents, size = (sum(counts[split][key] for split in SPLITS) for key in ("documents", "bytes"))
    touched = sum(entry["touched"] for entry in counts["contamination"].values())
    tokens = sum(index["splits"][split]["tokens"] for split in SPLITS)
    facts = {
        "documents": documents,
        "text": short_number(size, " ") + "B",
        "tokens": short_number(tokens),
        "sources": len(report["fetched"]),
        "vocabulary": index["vocab_size"],
        "items met in training text": touched,
    }
    shown = "".join(
        f"<div><b>{escape_text(value) if isinstance(value, str) else f'{value:,}'}</b> {escape(name)}</div>"
        for name, value in facts.items()
    )
    return f'<p>SHA-256 of the data: <code class="whole">{escape(digest)}</code></p>\n<div class="facts">{shown}</div>'


def _sources(report: Json, index: Json, fetched: dict[str, Source]) -> str:
    read, train = report["counts"]["read"]["by_source"], index["splits"]["train"]
    rows = []
    names = [source["name"] for source in report["fetched"]]
    shares = shares_of([train["sources"].get(name, {}).get("tokens", 0) for name in names], train["tokens"])
    for source, share in zip(report["fetched"], shares, strict=True):
        name = source["name"]
        documents, size = (read.get(name, {}).get(key, 0) for key in ("documents", "bytes"))
        tokens = train["sources"].get(name, {}).get("tokens", 0)
        of = fetched.get(name)  # none, if params.yaml has lost it since
        licence, digest = (of.licence, short_hash(of.identity)) if of else ("unknown", "")
        rows.append([name, licence, source["files"], documents, size, tokens, share, digest])
    counted = ["files", "documents read", "bytes read", "training tokens", "share"]
    return table(["source", "licence", *counted, "SHA-256 or commit"], rows)


def _steps(counts: Json, hold_out: str) -> str:
    """A table of what every step removed, and pictures of it; a step that removed nothing is only named.

    Shares are of the bytes that were read. Those of documents would not add up: some become several.
    """
    removed = {name: (entry["documents"], entry["bytes"]) for name, entry in counts["dropped"].items()}
    malformed = {name: entry for name, entry in removed.items() if name.startswith("malformed") and any(entry)}
    idle = [_plain(name) for name, entry in removed.items() if not any(entry)]
    kept = [sum(counts[split][key] for split in SPLITS) for key in ("documents", "bytes")]
    left = [counts["read"][key] for key in ("documents", "bytes")]
    # What cannot be read is no document, so it comes on top of those that were read.
    left = [have + sum(entry[place] for entry in malformed.values()) for place, have in enumerate(left)]
    read, parts = left[1], list[int]()
    rows, steps = [["read", *left, "", ""]], [("read", *left, 0, 0)]

    def step(name: str, documents: int, size: int) -> None:
        left[0], left[1] = left[0] - documents, left[1] - size
        rows.append([name, *left, _signed(-documents), _signed(-size)])
        parts.append(size)
        steps.append((name, *left, max(documents, 0), max(size, 0)))

    # Decontamination comes last, whatever the order of the counts.
    changed = [name for name, entry in removed.items() if any(entry) and name not in malformed]
    for name in (*malformed, *sorted(changed, key=lambda name: name == "contaminated")):
        step(_plain(name), *removed[name])
    cut = counts["cut"]
    if cut["documents"]:
        step("cut into pieces", cut["documents"] - cut["pieces"], cut["bytes"])
    if left != kept:
        name = "repaired and trimmed" + (", divided among the splits" if hold_out == "ends" else "")
        step(name, left[0] - kept[0], left[1] - kept[1])
    for split in SPLITS:
        rows.append([split, counts[split]["documents"], counts[split]["bytes"], "", ""])
        parts.append(counts[split]["bytes"])
    shares = ["", *shares_of(parts, read)]
    pictures = pictures_in_a_row(
        draw_steps([(name, left, gone) for name, left, _, gone, _ in steps], "documents"),
        draw_steps([(name, left, gone) for name, _, left, _, gone in steps], "bytes"),
    )
    pictures += "<p>Blue is left after a step, orange is what it removed.</p>\n"
    head = ["step", "documents", "bytes", "± documents", "± bytes", "share of bytes"]
    changes = table(head, [[*row, share] for row, share in zip(rows, shares, strict=True)])
    return pictures + changes + f"<p>Removed nothing: {escape_text(', '.join(idle)) or 'none'}.</p>\n"


def _splits(counts: Json, index: Json) -> str:
    rows = []
    for split in SPLITS:
        entry, stream = counts[split], index["splits"][split]
        sizes = [entry[key] for key in ("documents", "characters", "words", "bytes")]
        rows.append([split, *sizes, stream["tokens"], len(stream["shards"]), short_hash(entry["sha256"])])
    return table(
        ["split", "documents", "characters", "words", "bytes", "tokens of an epoch", "shards", "SHA-256"], rows
    )


def _lengths(sources: Json, index: Json) -> str:
    written = _histograms(sources)
    found = _histograms({split: entry["sources"] for split, entry in index["splits"].items()})
    streams = {name: found[name] for name in written if name in found}  # in the same order, so of the same colour
    return pictures_in_a_row(draw_lengths(written, "bytes"), draw_lengths(streams, "tokens"))


def _histograms(by_split: Json) -> dict[str, dict[int, int]]:
    """Return by source the number of documents of all splits by the logarithm (base 2) of their length."""
    histograms: dict[str, dict[int, int]] = {}
    for entries in by_split.values():
        for name, entry in entries.items():
            counts = histograms.setdefault(name, {})
            for key, count in entry.items():
                if key.startswith("length "):
                    exponent = int(key.removeprefix("length "))
                    counts[exponent] = counts.get(exponent, 0) + count
    most_first = sorted(histograms, key=lambda name: (-sum(histograms[name].values()), name))
    return {name: histograms[name] for name in most_first if histograms[name]}


def _tokens(index: Json) -> str:
    rows = []
    for split in SPLITS:
        for name, entry in sorted(index["splits"][split]["sources"].items()):
            ratios = [f"{entry['tokens'] / max(entry[key], 1):.3f}" for key in ("bytes", "words")]
            rows.append([split, name, *(entry[key] for key in ("documents", "bytes", "tokens")), *ratios])
    return table(["split", "source", "documents", "bytes", "tokens", "tokens per byte", "tokens per word"], rows)


def _duplicates(counts: Json) -> str:
    read = counts["read"]
    rows = [
        [_plain(name), entry["documents"], percent(entry["documents"], read["documents"]), entry["bytes"],
         percent(entry["bytes"], read["bytes"])]
        for name, entry in counts["dropped"].items() if name.endswith("duplicate") and entry["documents"]
    ]  # fmt: skip
    return table(["removed as", "documents", "share", "bytes", "share"], rows)


def _examples(examples: Json) -> str:
    shown = {reason: entries for reason, entries in examples.items() if entries}
    return "".join(_example(reason, entries) for reason, entries in sorted(shown.items())) or NONE


def _example(reason: str, entries: list[Any]) -> str:
    rows = [entry if isinstance(entry, dict) else {"text": entry} for entry in entries]
    head = sorted({key for row in rows for key in row} - {"text"})
    cells = [[quote(str(row.get("text", ""))), *(quote(str(row.get(key, ""))) for key in head)] for row in rows]
    return f"<h3>{escape_text(_plain(reason))}</h3>\n{table(['begins with', *head], cells)}"


def _hashes(digest: str, report: Json, index: Json, fetched: dict[str, Source]) -> str:
    rows = [["data (index of the shards)", digest], ["tokenizer", index["tokenizer_id"]]]
    names = [source["name"] for source in report["fetched"]]
    rows += [[f"source {name}", fetched[name].identity] for name in names if name in fetched]
    rows += [
        [f"benchmark {name}", entry["sha256"]]
        for name, entry in sorted(report["benchmarks"].items())
        if isinstance(entry, dict) and "sha256" in entry
    ]
    rows += [[f"texts of {split}", report["counts"][split]["sha256"]] for split in SPLITS]
    rows += [[shard["file"], shard["sha256"]] for split in SPLITS for shard in index["splits"][split]["shards"]]
    cells = [[name, Markup(f'<code class="whole">{escape_text(value)}</code>')] for name, value in rows]
    return table(["of", "SHA-256"], cells)


def _value(value: Any) -> Markup:
    return Markup(f"<code>{escape_text(json.dumps(value, ensure_ascii=False))}</code>")


def _signed(change: int) -> str:
    return f"{change:+,}" if change else "0"


def _plain(reason: str) -> str:
    return reason.replace("_", " ")
