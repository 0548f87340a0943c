"""Which examples are used, and for what: duplicates go, the rest is balanced and split, and may be limited.

What an example asks decides alone: a fixed place in [0, 1) by its hash. So adding examples moves none between the splits.
"""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import regex

from gpt.finetuning.data.benchmarks import Passages
from gpt.finetuning.data.examples import Example, asked_of
from gpt.params.finetuning import Data

SPLITS = ("train", "validation", "test")
_WORDLESS = regex.compile(r"[^\p{L}\p{N}]+")


@dataclass
class Selection:
    """The examples of each split in the order of their places, and how many were left out for what reason."""

    splits: dict[str, list[Example]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    left_out: Counter[str] = field(default_factory=Counter)
    matches: list[tuple[str, Example]] = field(default_factory=list)
    "Examples that were left out as they hold a passage of a benchmark, each with an item that has it."


def select(examples: Iterable[Example], settings: Data, passages: Passages | None = None) -> Selection:
    """Return what is used of the examples, as `settings` say; what has one of the `passages` is not trained on."""
    selection = Selection()
    kept: list[tuple[float, Example]] = []
    known: set[bytes] = set()
    for example in examples:
        key = _key(example, settings)
        if key in known and settings.deduplicate != "none":
            selection.left_out["duplicate"] += 1
            continue
        known.add(key)
        kept.append((_place(key, settings), example))
    kept.sort(key=lambda entry: entry[0])
    if passages is not None:
        kept = list(_clean(kept, passages, settings, selection))
    if settings.balance:
        kept = list(_balanced(kept, selection.left_out))
    for place, example in kept:
        selection.splits[_split(place, example, settings)].append(example)
    train = selection.splits["train"]
    if settings.limit and len(train) > settings.limit:
        selection.splits["train"] = list(_limited(train, settings.limit))
        selection.left_out["limit"] += len(train) - settings.limit
    selection.splits["train"] = [
        example for example in selection.splits["train"] for _ in range(settings.repeat.get(str(kind_of(example)), 1))
    ]
    return selection


def _key(example: Example, settings: Data) -> bytes:
    asked = asked_of(example)
    if settings.deduplicate == "normalized":
        asked = _WORDLESS.sub(" ", unicodedata.normalize("NFKC", asked).casefold()).strip() or asked
    return asked.encode("utf-8", "surrogatepass")


def _place(key: bytes, settings: Data) -> float:
    digest = hashlib.sha256(f"{settings.split_seed}:".encode() + key).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split(place: float, example: Example, settings: Data) -> str:
    group = example.get("group")
    if group is not None:
        place = _place(group.encode(), settings)
    # Two draws in one: places are sorted and limited by their order, which must not be that of the splits.
    place = (place * 2**20) % 1.0
    if place < settings.test_fraction:
        return "test"
    return "validation" if place < settings.test_fraction + settings.validation_fraction else "train"


def _clean(
    kept: list[tuple[float, Example]], passages: Passages, settings: Data, selection: Selection
) -> Iterator[tuple[float, Example]]:
    train = [number for number, entry in enumerate(kept) if _split(*entry, settings) == "train"]
    found = passages.find([kept[number][1] for number in train])
    items = {train[number]: item for number, item in found.items()}
    for number, entry in enumerate(kept):
        if number in items:
            selection.left_out["in a benchmark"] += 1
            selection.matches.append((items[number], entry[1]))
        else:
            yield entry


def kind_of(example: Example) -> Any:
    """Return what examples are balanced and reported by: their class, or their task."""
    return example.get("label", example.get("task", ""))


def _balanced(kept: list[tuple[float, Example]], left_out: Counter[str]) -> Iterator[tuple[float, Example]]:
    counts = Counter(kind_of(example) for _, example in kept)
    smallest = min(counts.values(), default=0)
    seen: Counter[Any] = Counter()
    for place, example in kept:
        seen[kind_of(example)] += 1
        if seen[kind_of(example)] <= smallest:
            yield place, example
        else:
            left_out["balance"] += 1


def _limited(train: list[Example], limit: int) -> Iterator[Example]:
    """Yield the first examples of each class in turn, as many as `limit`."""
    by_kind: defaultdict[Any, list[Example]] = defaultdict(list)
    for example in train:
        by_kind[kind_of(example)].append(example)
    rank: dict[int, int] = {}
    for examples in by_kind.values():
        rank |= {id(example): number for number, example in enumerate(examples)}
    chosen = {id(example) for example in sorted(train, key=lambda one: rank[id(one)])[:limit]}
    yield from (example for example in train if id(example) in chosen)
