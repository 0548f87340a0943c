"""Keep what judges a model out of what it learns from: benchmarks' items, validation and test documents.

A training document that has `ngram` normalised words in a row with one of them is cut there or dropped (as for GPT-3, Brown
et al. 2020, appendix C). The index is a sorted array of n-gram hashes in a file, which all workers map. Texts shorter than
an n-gram cannot be found: the report names them.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from gpt.corpus.arrays import first_of_equal, map_array, read_between, sort_unique
from gpt.corpus.words import ngram_hashes, split_words, word_spans
from gpt.params.corpus import Decontaminate as Settings
from gpt.tasks.work import read_reports, write_report

_OUTWARD_CHARACTERS = 50  # a cut ends at a space, if there is one so near
_SHOWN_CHARACTERS = 300
_SHOWN_ITEMS = 3
_PLANTED = 200
_ITEMS_AT_ONCE = 256
_CHARACTERS_AT_ONCE = 1 << 20
_HASHES_AT_ONCE = 1 << 20
_MATCHES_AT_ONCE = 1 << 10
_LEAST_FILTER_BITS = 16
_HASH, _ITEM = np.dtype("<u8"), np.dtype("<u4")


class IndexTexts(PipelineStep):
    """Task t: write owner t's n-grams: sorted `.grams`, the number of the item that holds each, `.items`, and each once, `.hashes`.

    `owners` are (name, JSONL file), benchmarks' and shards' held-out documents, with an item's texts in `texts`, or one in `text`.
    """

    name = "n-grams"
    type = "decontamination"

    def __init__(self, owners: list[tuple[str, Path]], folder: Path, ngram: int) -> None:
        super().__init__()
        self._owners, self._folder, self._ngram = owners, folder, ngram

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        _, path = self._owners[rank]
        hashes, numbers, unprotected, items = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)], [], 0
        for batch in _batches(path):
            found, of = self._grams(batch)
            held = np.bincount(of, minlength=len(batch))
            unprotected += [item["id"] for item, count in zip(batch, held, strict=True) if not count]
            hashes.append(found)
            numbers.append(of + np.uint32(items))
            items += len(batch)
        grams, owned = np.concatenate(hashes), np.concatenate(numbers)
        del hashes, numbers
        order = np.argsort(grams, kind="stable")  # items come in order: they stay so among equal hashes
        grams, owned = grams[order], owned[order]
        once = first_of_equal(grams) | first_of_equal(owned)
        grams, owned = grams[once], owned[once]
        self._folder.mkdir(parents=True, exist_ok=True)
        grams.tofile(self._folder / f"{rank:05d}.grams")
        owned.tofile(self._folder / f"{rank:05d}.items")
        grams[first_of_equal(grams)].tofile(self._folder / f"{rank:05d}.hashes")
        write_report(self._folder, rank, {"items": items, "unprotected": unprotected})
        yield from ()

    def _grams(self, items: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Return hashes of n-grams and whose they are, items counting from 0: all at once, as few words are soon hashed."""
        words: list[str] = []
        numbers, lengths, known = [], [], dict[str, list[str]]()
        for number, item in enumerate(items):
            for text in item["texts"]:  # questions share a story
                found = known.get(text)
                if found is None:
                    found = known[text] = split_words(text)
                words += found
                numbers.append(number)
                lengths.append(len(found))
        hashes = ngram_hashes(words, self._ngram)
        text_of = np.repeat(np.arange(len(lengths)), lengths)
        last = self._ngram - 1
        whole = text_of[: len(hashes)] == text_of[last : last + len(hashes)]  # not of two texts
        places = text_of[: len(hashes)][whole]
        return hashes[whole], np.array(numbers, np.uint32)[places] if len(places) else np.empty(0, np.uint32)


class MergeIndex(PipelineStep):
    """The one task that makes the index of all owners: `index`, each n-gram once, sorted, and `filter`.

    The filter has a bit for every value of a hash's first bits, sixteen times as many as there are n-grams: few texts
    pass it that are not in the index, and most never look there. Both are written a range of hashes at a time.
    """

    name = "index"
    type = "decontamination"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        paths = sorted(self._folder.glob("*.hashes"))
        total = sum(path.stat().st_size // _HASH.itemsize for path in paths)
        part_bits = (total // _HASHES_AT_ONCE).bit_length()
        filter_bits = max(_LEAST_FILTER_BITS, (16 * total).bit_length())
        with (self._folder / "index").open("wb") as index, (self._folder / "filter").open("wb") as filter_:
            for part in range(1 << part_bits):
                low, high = part << (64 - part_bits), (part + 1) << (64 - part_bits)
                pieces = [read_between(path, _HASH, low, high) for path in paths]
                merged = sort_unique(np.concatenate([np.empty(0, _HASH), *pieces]))
                merged.tofile(index)
                bits = np.zeros(1 << (filter_bits - part_bits), np.bool_)
                bits[(merged - np.uint64(low)) >> np.uint64(64 - filter_bits)] = True
                np.packbits(bits).tofile(filter_)
        yield from ()


@dataclass(frozen=True)
class Match:
    """Words [first, last) of a text, and the hashes of their n-grams that are in the index."""

    first: int
    last: int
    hashes: np.ndarray


class Matcher:
    """Finds what a text shares with the indexed ones."""

    def __init__(self, folder: Path, ngram: int) -> None:
        self._index = map_array(folder / "index", _HASH)
        self._filter = np.memmap(folder / "filter", np.uint8, "r")
        self._shift = np.uint64(64 - (len(self._filter).bit_length() + 2))
        self._ngram = ngram

    def find(self, words: list[str]) -> list[Match]:
        """Return the matches in a text's words, in order; overlapping ones are one."""
        hashes = ngram_hashes(words, self._ngram)
        places = hashes >> self._shift
        bits = self._filter[places >> np.uint64(3)] << (places & np.uint64(7)).astype(np.uint8)
        found = np.flatnonzero(bits & 128)
        if not len(found) or not len(self._index):
            return []
        places = np.searchsorted(self._index, hashes[found])
        places[places == len(self._index)] = 0
        found = found[self._index[places] == hashes[found]]
        matches: list[Match] = []
        for group in np.split(found, np.flatnonzero(np.diff(found) > self._ngram) + 1):
            if len(group):
                matches.append(Match(int(group[0]), int(group[-1]) + self._ngram, hashes[group]))
        return matches


def find_owners(index: Path, owners: int, groups: list[np.ndarray]) -> list[dict[int, np.ndarray]]:
    """Return for each group of hashes, by owner's number, the numbers of the items that hold one of them, sorted."""
    hashes = np.concatenate([np.empty(0, np.uint64), *groups])
    group_of = np.repeat(np.arange(len(groups)), np.array([len(group) for group in groups], np.int64))
    held: list[dict[int, np.ndarray]] = [{} for _ in groups]
    for owner in range(owners):  # mapped one at a time: what is mapped counts as this process's memory
        grams, items = map_array(index / f"{owner:05d}.grams", _HASH), map_array(index / f"{owner:05d}.items", _ITEM)
        firsts, lasts = np.searchsorted(grams, hashes, "left"), np.searchsorted(grams, hashes, "right")
        ranges: dict[int, list[np.ndarray]] = defaultdict(list)
        for place in np.flatnonzero(lasts > firsts):
            ranges[int(group_of[place])].append(items[firsts[place] : lasts[place]])
        for group, pieces in ranges.items():
            held[group][owner] = np.unique(np.concatenate(pieces))
    return held


class Decontaminate(PipelineStep):
    """Cut or drop documents that match.

    Writes `matches/<shard>.jsonl`, a line a match, and `matches/<shard>.hashes`.
    """

    name = "decontaminate"
    type = "decontamination"

    def __init__(self, settings: Settings, owners: int, index: Path, folder: Path) -> None:
        super().__init__()
        self._settings, self._owners, self._index, self._folder = settings, owners, index, folder

    def run(self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        matcher = Matcher(self._index, self._settings.ngram)
        self._folder.mkdir(parents=True, exist_ok=True)
        hashes = [np.empty(0, _HASH)]
        pending: list[tuple[dict[str, Any], Match]] = []
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        with (self._folder / f"{rank:05d}.jsonl").open("wb") as file:
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
                    hashes.append(self._write(pending, file))
                    pending = []
                yield from pieces
            hashes.append(self._write(pending, file))
        sort_unique(np.concatenate(hashes)).tofile(self._folder / f"{rank:05d}.hashes")
        write_report(self._folder, rank, counts)

    def _write(self, pending: list[tuple[dict[str, Any], Match]], file: IO[bytes]) -> np.ndarray:
        """Write a line a match, with the items it is in; return the hashes of all, each once."""
        groups = [match.hashes for _, match in pending]
        for (record, _), held in zip(pending, find_owners(self._index, self._owners, groups), strict=True):
            shown = [[number, item] for number, items in held.items() for item in items[:_SHOWN_ITEMS].tolist()]
            file.write(orjson.dumps(record | {"in": shown}) + b"\n")
        return sort_unique(np.concatenate([np.empty(0, _HASH), *groups]))

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
        for _ in range(_OUTWARD_CHARACTERS):
            if start > 0 and not text[start - 1].isspace():
                start -= 1
            if end < len(text) and not text[end].isspace():
                end += 1
        pieces.append(text[position : max(start, position)])
        position = max(end, position)
    return [piece for piece in (part.strip() for part in (*pieces, text[position:])) if piece]


def summarise(owners: list[tuple[str, Path]], index: Path, matches: Path) -> dict[str, dict[str, Any]]:
    """Return by benchmark or split: its items, those that training documents shared an n-gram with, those too short to protect."""
    hashes = sort_unique(np.concatenate([np.fromfile(path, _HASH) for path in sorted(matches.glob("*.hashes"))]))
    (touched,) = find_owners(index, len(owners), [hashes])
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


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield items, as many at a time as are soon hashed together and take little memory."""
    batch, size = [], 0
    for item in read_items(path):
        batch.append(item)
        size += sum(map(len, item["texts"]))
        if len(batch) == _ITEMS_AT_ONCE or size > _CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_items(path: Path) -> Iterator[dict[str, Any]]:
    """Yield id and texts of a benchmark's items or of held-out documents."""
    with path.open("rb") as file:
        for line in file:
            item = orjson.loads(line)
            yield {"id": item["id"], "texts": item["texts"] if "texts" in item else [item["text"]]}
