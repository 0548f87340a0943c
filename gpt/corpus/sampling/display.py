"""The sample that prepare kept, for a person: how many documents of each source went where, and some of them, before and after."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from gpt.corpus.sampling.sample import SAMPLE
from gpt.corpus.splits import SPLITS
from gpt.errors import UserError

KEPT_REASONS = (*SPLITS, "cut")
Record = dict[str, Any]


class SampleReader:
    """What `data/documents/sample.jsonl` holds."""

    def __init__(self, documents: Path) -> None:
        """Raise `UserError` if prepare has not written one."""
        self.counts: dict[tuple[str, str], int] = {}
        "Documents by source and reason: a split, `cut`, or why they went."
        self.records: list[Record] = []
        path = documents / SAMPLE
        try:
            with path.open("rb") as file:
                for record in map(orjson.loads, file):
                    if "documents" in record:
                        self.counts[record["source"], record["reason"]] = record["documents"]
                    else:
                        self.records.append(record)
        except FileNotFoundError:
            raise UserError(f"{path}: not found; run `gpt prepare` first") from None

    def table(self) -> list[str]:
        """Return a line for each source and reason, what stays first."""
        order = sorted(self.counts, key=lambda kind: (kind[0], kind[1] not in KEPT_REASONS, kind[1]))
        rows = [("source", "", "reason", "documents")]
        rows += [
            (source, "kept" if reason in KEPT_REASONS else "dropped", reason, f"{self.counts[source, reason]:,}")
            for source, reason in order
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])]) for row in rows]

    def choose(
        self, number: int, seed: int, *, kept: bool | None = None, source: str | None = None, reason: str | None = None
    ) -> list[Record]:
        """Return so many documents at random, of each source and reason in turn; raise `UserError` for names that none has."""
        _check("source", source, sorted({name for name, _ in self.counts}))
        _check("reason", reason, sorted({name for _, name in self.counts}))
        wanted = [
            record
            for record in self.records
            if source in (None, record["source"])
            and reason in (None, record["reason"])
            and kept in (None, record["reason"] in KEPT_REASONS)
        ]
        wanted.sort(key=lambda record: _order(seed, record))
        turns: dict[tuple[str, str], int] = {}
        placed = []
        for place, record in enumerate(wanted):
            kind = record["source"], record["reason"]
            turns[kind] = turns.get(kind, 0) + 1
            placed.append((turns[kind], place, record))
        return [record for *_, record in sorted(placed, key=lambda item: item[:2])[:number]]


def show(record: Record) -> Iterator[str]:
    """Yield the lines of a document: where it was, how it began, and what each step changed in it."""
    yield f"── {record['source']} · {_verdict(record['reason'])} · {record['name']}"
    if message := record.get("message"):
        yield message
        return
    text, characters = record["text"], record["characters"]
    yield visible(text)
    if characters > len(text):
        yield f"… {characters - len(text):,} more characters"
    for change in record["changes"]:
        before, after = change["characters"]
        yield f"── {change['step']} changed it from character {change['at']:,} on ({before:,} to {after:,} characters)"
        yield from (f"- {line}" for line in visible(change["before"]).split("\n"))
        yield from (f"+ {line}" for line in visible(change["after"]).split("\n"))


def visible(text: str) -> str:
    """Return a text whose control characters are seen, and steer no terminal."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else f"\\u{ord(sign):04x}" for sign in text)


def _verdict(reason: str) -> str:
    if reason == "cut":
        return "kept, but for a passage"
    return f"kept: {reason}" if reason in SPLITS else f"dropped: {reason}"


def _order(seed: int, record: Record) -> bytes:
    return hashlib.sha256(f"{seed}:{record['reason']}:{record['name']}".encode()).digest()


def _check(what: str, name: str | None, known: list[str]) -> None:
    if name is not None and name not in known:
        raise UserError(f"--{what} {name}: no document has it; known are {', '.join(known)}")
