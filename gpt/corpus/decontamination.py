"""Keep what judges a model out of what it learns from: benchmarks' items, validation and test documents.

A training document that has `ngram` normalised words in a row with one of them is cut there or dropped (as for GPT-3, Brown
et al. 2020, appendix C). Texts shorter than an n-gram cannot be found: the report names them.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from datatrove.data import Document

from gpt.corpus.arrays import sort_unique
from gpt.corpus.index import HASH, Match, Matcher, find_owners, read_items
from gpt.corpus.words import split_words, word_spans
from gpt.params.corpus import Decontaminate as Settings
from gpt.tasks.reports import read_reports
from gpt.tasks.steps import WritingStep

_MOST_TO_SPACE = 50  # characters: a cut is widened to the next space, if there is one so near
_SHOWN_CHARACTERS = 300
_SHOWN_ITEMS = 3
_PLANTED = 200  # texts that measure the search
_MATCHES_AT_ONCE = 1 << 10  # looked up together


class Decontaminate(WritingStep):
    """Cut or drop documents that match.

    Writes `matches/<shard>.jsonl`, a line a match, and `matches/<shard>.hashes`.
    """

    name = "decontaminate"

    def __init__(self, settings: Settings, index: Path, folder: Path) -> None:
        super().__init__()
        self._settings, self._index, self._folder = settings, index, folder

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        matcher = Matcher(self._index, self._settings.ngram)
        hashes = [np.empty(0, HASH)]
        pending: list[tuple[dict[str, Any], Match]] = []
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        with self.new_file(self._folder / f"{rank:05d}.jsonl").open("wb") as file:
            for document in data or ():
                if not (matches := matcher.find(split_words(document.text))):
                    yield document
                    continue
                spans = word_spans(document.text)
                ranges = [(spans[match.first][0], spans[match.last - 1][1]) for match in matches]
                pieces, action = self._cut(document, ranges)
                left = sum(len(piece.text.encode()) for piece in pieces)
                counts[action].update(
                    documents=1, bytes=len(document.text.encode()) - left, pieces=len(pieces), matches=len(matches)
                )
                for match, (start, end) in zip(matches, ranges, strict=True):
                    record = {
                        "document": document.id,
                        "source": document.metadata["source"],
                        "action": action,
                        "words": match.last - match.first,
                        "text": document.text[start : min(end, start + _SHOWN_CHARACTERS)],
                    }
                    pending.append((record, match))
                if len(pending) >= _MATCHES_AT_ONCE:
                    hashes.append(self._write_matches(pending, file))
                    pending = []
                yield from pieces
            hashes.append(self._write_matches(pending, file))
        sort_unique(np.concatenate(hashes)).tofile(self.new_file(self._folder / f"{rank:05d}.hashes"))
        self.write_report(self._folder, rank, counts)

    def _write_matches(self, pending: list[tuple[dict[str, Any], Match]], file: IO[bytes]) -> np.ndarray:
        """Write a line a match, with the items it is in; return the hashes of all, each once."""
        groups = [match.hashes for _, match in pending]
        for (record, _), held in zip(pending, find_owners(self._index, groups), strict=True):
            shown = [[number, item] for number, items in held.items() for item in items[:_SHOWN_ITEMS].tolist()]
            file.write(orjson.dumps(record | {"in": shown}) + b"\n")
        return sort_unique(np.concatenate([np.empty(0, HASH), *groups]))

    def _cut(self, document: Document, ranges: list[tuple[int, int]]) -> tuple[list[Document], str]:
        """Return what stays of a document with matches at the ranges of characters, and what was done."""
        settings = self._settings
        match settings.action:
            case "report":
                return [document], "report"
            case "drop":
                return [], "drop"
        texts = [text for text in cut(document.text, ranges, settings.window) if len(text) >= settings.min_characters]
        if not 0 < len(texts) <= settings.max_pieces:
            return [], "drop"
        return [
            Document(
                text=text,
                id=f"{document.id}-{number}",
                metadata=document.metadata | {"words": len(split_words(text))},
            )
            for number, text in enumerate(texts)
        ], "cut"


def cut(text: str, ranges: list[tuple[int, int]], window: int) -> list[str]:
    """Return what is left of a text without the ranges of characters and `window` more on each side of them."""
    pieces, position = [], 0
    for start, end in ranges:
        start, end = max(start - window, 0), min(end + window, len(text))
        for _ in range(_MOST_TO_SPACE):
            if start > 0 and not text[start - 1].isspace():
                start -= 1
            if end < len(text) and not text[end].isspace():
                end += 1
        pieces.append(text[position : max(start, position)])
        position = max(end, position)
    return [piece for piece in (part.strip() for part in (*pieces, text[position:])) if piece]


def summarise(owners: list[tuple[str, Path]], index: Path, matches: Path) -> dict[str, dict[str, Any]]:
    """Return by benchmark or split: its items, those that training documents shared an n-gram with, those too short to protect."""
    hashes = sort_unique(np.concatenate([np.fromfile(path, HASH) for path in sorted(matches.glob("*.hashes"))]))
    (touched,) = find_owners(index, [hashes])
    summary: dict[str, dict[str, Any]] = {}
    for number, ((name, path), report) in enumerate(zip(owners, read_reports(index), strict=True)):
        entry = summary.setdefault(name, {"items": 0, "touched": [], "unprotected": []})
        entry["items"] += report["items"]
        entry["unprotected"] += report["unprotected"]
        if number in touched:
            numbers = set(touched[number].tolist())
            entry["touched"] += [item["id"] for place, item in enumerate(read_items(path)) if place in numbers]
    return summary


def plant(paths: list[Path], matcher: Matcher, ngram: int, seed: int) -> dict[str, int]:
    """Measure the matcher on texts that are in the index: leaks that it must find, and near misses that it must not.

    Leaks are a text as it is, in other case, with other punctuation, or half of it, between words of no text. Near misses
    are a text in which no more than n - 1 words in a row are left as they were.
    """
    choose = random.Random(seed)
    chosen: list[list[str]] = []
    seen = 0
    for item in (item for path in paths for item in read_items(path)):  # reservoir sampling (Vitter 1985)
        for text in item["texts"]:
            # Halves must have an n-gram. Few words for so many characters is a quick "no".
            if len(text) < 4 * ngram or (place := choose.randrange(seen := seen + 1)) >= _PLANTED:
                continue
            words = split_words(text)
            if len(words) < 2 * ngram:
                seen -= 1
            elif len(chosen) < _PLANTED:
                chosen.append(words)
            else:
                chosen[place] = words
    found = flagged = 0
    for number, words in enumerate(chosen):
        half = len(words) // 2
        leak = (
            " ".join(words),
            " ".join(words).upper(),
            " -- ".join(word.capitalize() + choose.choice(",.;:!") for word in words),
            " ".join(words[:half] if number % 8 < 4 else words[half:]),
        )[number % 4]
        found += bool(matcher.find(split_words(f"qzx{number} {leak} xzq{number}")))
        near = [f"qzx{place}" if place % ngram == ngram - 1 else word for place, word in enumerate(words)]
        flagged += bool(matcher.find(near))
    return {"leaks": len(chosen), "leaks_found": found, "near_misses": len(chosen), "near_misses_flagged": flagged}
