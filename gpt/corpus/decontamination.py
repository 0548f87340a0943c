"""Keep what judges a model out of what it learns from: benchmarks' items, validation and test documents.

A training document that has `ngram` normalised words in a row with one of them is cut there or dropped, as for GPT-3 (Brown et
al. 2020, appendix C). Passages that many training documents share are left alone: each is a wall, and matches are looked for
between walls, so a licence is no leak either where it bears another year and name. What cannot be found, as it is shorter than an
n-gram or common altogether, is named in the report.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from datatrove.data import Document

from gpt.corpus.arrays import sort_unique
from gpt.corpus.boilerplate import between, met_documents
from gpt.corpus.index import HASH, Match, Matcher, find_owners
from gpt.corpus.sampling.sample import Sample, beginning, difference
from gpt.corpus.words import split_words, word_spans
from gpt.params.corpus import Decontaminate as Settings
from gpt.tasks.steps import WritingStep

_MOST_TO_SPACE = 50  # characters: a cut is widened to the next space, if there is one so near
_SHOWN_CHARACTERS = 300
_SHOWN_ITEMS = 3
_MATCHES_AT_ONCE = 1 << 10  # looked up together
_GAP = "\n[…]\n"  # between the pieces of a document, where a person looks at it
_STRONGEST = ("drop", "cut", "report")
BENCHMARKS, HELD_OUT = "benchmarks", "held_out"
"Kinds of what judges a model, as the keys of prepare.decontaminate.action."


@dataclass(frozen=True)
class Judges:
    """Texts that training documents are kept clean of, of one kind."""

    kind: str
    "BENCHMARKS or HELD_OUT."
    owners: list[tuple[str, Path]]
    "Benchmarks by name, or the files of validation and test documents by split."
    index: Path
    "Folder of their n-grams."


class Decontaminate(WritingStep):
    """Cut or drop documents that match.

    Writes `matches/<kind>/<shard>.jsonl`, a line a match, and `matches/<kind>/<shard>.hashes` to the folder `work`, and a sample of
    what is cut or goes; `common` is the folder in which the documents were counted.
    """

    name = "decontaminate"

    def __init__(self, settings: Settings, judges: list[Judges], common: Path, work: Path) -> None:
        super().__init__()
        self._settings, self._judges, self._common, self._folder = settings, judges, common, work / "matches"
        self._samples = work / "samples" / "decontaminate"

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        settings, ngram = self._settings, self._settings.ngram
        walls = Matcher(self._common, ngram)
        matchers = {each.kind: Matcher(each.index, ngram) for each in self._judges}
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        sample = Sample()
        with ExitStack() as stack:
            books = {each.kind: stack.enter_context(_Book(self, each, self._folder, rank)) for each in self._judges}
            for document, has_met in zip(data or (), met_documents(self._common, rank), strict=True):
                words = split_words(document.text) if has_met else []
                places = list(between(walls.find(words), len(words), ngram))
                found = {kind: _find(matcher, words, places) for kind, matcher in matchers.items()}
                if not any(found.values()):
                    yield document
                    continue
                spans = word_spans(document.text)
                ranges = {
                    kind: [(spans[match.first][0], spans[match.last - 1][1]) for match in matches]
                    for kind, matches in found.items()
                }
                pieces, done = self._cut(document, ranges)
                left = sum(len(piece.text.encode()) for piece in pieces)
                counts[done].update(documents=1, bytes=len(document.text.encode()) - left, pieces=len(pieces))
                for kind, matches in found.items():
                    # A passage that is only to be reported is lost with a document that goes for another one.
                    action = done if done == "drop" else getattr(settings.action, kind)
                    books[kind].note(document, action, matches, ranges[kind])
                if done != "report":
                    told = partial(_describe, document, pieces)
                    reason = "contaminated" if done == "drop" else "cut"
                    sample.add(document.metadata["source"], reason, document.id, told)
                yield from pieces
        sample.write(self.new_file(self._samples / f"{rank:05d}.jsonl"))
        self.write_report(self._folder, rank, counts)

    def _cut(self, document: Document, ranges: dict[str, list[tuple[int, int]]]) -> tuple[list[Document], str]:
        """Return what stays of a document with matches at the ranges of characters, and what was done."""
        settings = self._settings
        actions = {kind: getattr(settings.action, kind) for kind, found in ranges.items() if found}
        match min(actions.values(), key=_STRONGEST.index):
            case "report":
                return [document], "report"
            case "drop":
                return [], "drop"
        cuts = sorted(
            (start - window, end + window)
            for kind, action in actions.items()
            if action == "cut"
            for window in [
                settings.window if kind == BENCHMARKS else 0
            ]  # beside a held-out passage nothing else is of it
            for start, end in ranges[kind]
        )
        texts = [text for text in cut(document.text, cuts) if len(text) >= settings.min_characters]
        if not 0 < len(texts) <= settings.max_pieces:
            return [], "drop"
        changes = [*document.metadata.get("changes", []), difference("cut", document.text, _GAP.join(texts))]
        return [
            Document(
                text=text,
                id=f"{document.id}-{number}",
                metadata=document.metadata | {"words": len(split_words(text)), "changes": changes},
            )
            for number, text in enumerate(texts)
        ], "cut"


def _describe(document: Document, pieces: list[Document]) -> dict[str, Any]:
    changed = pieces[0].metadata if pieces else document.metadata
    return beginning(document.text) | {"changes": changed.get("changes", [])}


class _Book:
    """The matches of a shard with texts of one kind, on their way to files."""

    def __init__(self, step: WritingStep, judges: Judges, folder: Path, rank: int) -> None:
        self._judges = judges
        self._path, self._hashes = (
            step.new_file(folder / judges.kind / f"{rank:05d}.{ending}") for ending in ("jsonl", "hashes")
        )
        self._pending: list[tuple[dict[str, Any], Match]] = []
        self._seen = [np.empty(0, HASH)]

    def __enter__(self) -> "_Book":
        self._file: IO[bytes] = self._path.open("wb")
        return self

    def __exit__(self, *exception: object) -> None:
        with self._file:
            self._write()
        sort_unique(np.concatenate(self._seen)).tofile(self._hashes)

    def note(self, document: Document, action: str, matches: list[Match], ranges: list[tuple[int, int]]) -> None:
        """Keep the matches of a document, each at its range of characters."""
        for match, (start, end) in zip(matches, ranges, strict=True):
            record = {
                "document": document.id,
                "source": document.metadata["source"],
                "action": action,
                "words": match.last - match.first,
                "text": document.text[start : min(end, start + _SHOWN_CHARACTERS)],
            }
            self._pending.append((record, match))
        if len(self._pending) >= _MATCHES_AT_ONCE:
            self._write()

    def _write(self) -> None:
        """Write a line a match, with the items it is in."""
        groups = [match.hashes for _, match in self._pending]
        owners = find_owners(self._judges.index, groups)
        for (record, _), held in zip(self._pending, owners, strict=True):
            shown = [[number, item] for number, items in held.items() for item in items[:_SHOWN_ITEMS].tolist()]
            self._file.write(orjson.dumps(record | {"in": shown}) + b"\n")
        self._seen.append(sort_unique(np.concatenate([np.empty(0, HASH), *groups])))
        self._pending = []


def _find(matcher: Matcher, words: list[str], places: list[tuple[int, int]]) -> list[Match]:
    return [
        Match(first + match.first, first + match.last, match.hashes)
        for first, last in places
        for match in matcher.find(words[first:last])
    ]


def cut(text: str, ranges: list[tuple[int, int]]) -> list[str]:
    """Return what is left of a text without the ranges of characters, which are sorted and may overlap or lie outside."""
    pieces, position = [], 0
    for start, end in ranges:
        start, end = max(start, 0), min(end, len(text))
        for _ in range(_MOST_TO_SPACE):
            if start > 0 and not text[start - 1].isspace():
                start -= 1
            if end < len(text) and not text[end].isspace():
                end += 1
        pieces.append(text[position : max(start, position)])
        position = max(end, position)
    return [piece for piece in (part.strip() for part in (*pieces, text[position:])) if piece]
