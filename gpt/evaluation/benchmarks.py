"""Benchmarks: which items a model is asked, with which examples before them, and what its answers are worth.

The same functions serve the evaluation of a finished model, which asks through lm-eval, and training, which asks directly.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpt.errors import UserError
from gpt.evaluation.scores import Items
from gpt.files import read_json
from gpt.params.evaluation import Evaluate
from gpt.sources.items import Item, read_items

_AGAIN = "run `dvc repro prepare`"


@dataclass(frozen=True)
class Benchmark:
    """Items to score, each after the same solved examples."""

    name: str
    items: list[Item]
    clean: list[bool]
    "By item: no training document had a passage of it."
    examples: tuple[Item, ...] = ()

    @property
    def prefix(self) -> str:
        """What stands before an item's context: the examples with their right choices, an empty line after each."""
        solved = (item.choices[item.answer] for item in self.examples)
        return "".join(f"{choice.context}{choice.continuation}\n\n" for choice in solved)

    def requests(self) -> list[tuple[str, str]]:
        """Return (context, continuation) of all choices of all items, in their order."""
        prefix = self.prefix
        return [(prefix + choice.context, choice.continuation) for item in self.items for choice in item.choices]

    def with_right_choices(self) -> "Benchmark":
        """Return the same items with their right choice alone."""
        items = [replace(item, choices=(item.choices[item.answer],), answer=0) for item in self.items]
        return replace(self, items=items)


def read_benchmark(name: str, folder: Path, *, limit: int, num_fewshot: int, touched: frozenset[str]) -> Benchmark:
    """Read a benchmark of data/benchmarks: its test split, if it has one, else all its items; 0 is no limit.

    A limit takes the items whose ids have the lowest hashes: a smaller one takes a part of what a larger takes, whatever their
    order in the file. Examples are of another split, or of the items that are left over, and have no text in common with an
    item that is scored. `touched` are ids of items of which a training document had a passage. Raises `UserError` if there is no
    such benchmark or it has too few examples.
    """
    items = sorted(read_items(folder / f"{name}.jsonl"), key=_place)
    tests = [item for item in items if item.split == "test"] or items
    scored = tests[:limit] if limit else tests
    examples: tuple[Item, ...] = ()
    if num_fewshot:
        scored_ids, texts = {item.id for item in scored}, {text for item in scored for text in item.texts}
        others = [item for item in items if item.split != scored[0].split] or items[::-1]
        free = [item for item in others if item.id not in scored_ids and texts.isdisjoint(item.texts)]
        if len(free) < num_fewshot:
            raise UserError(
                f"params.yaml: evaluate: {name} has {len(free)} items that are not scored, and num_fewshot is {num_fewshot};"
                " lower it, or set a limit in evaluate.by_benchmark"
            )
        examples = tuple(free[:num_fewshot])
    return Benchmark(name, scored, [item.id not in touched for item in scored], examples)


def read_all(settings: Evaluate, folder: Path, documents: Path) -> list[Benchmark]:
    """Read the benchmarks of evaluate.benchmarks; `documents` is the folder whose report says which items training met."""
    if not settings.benchmarks:
        return []
    report = read_json(documents / "report.json", _AGAIN, ("contaminated",))["contaminated"]
    if missing := [name for name in settings.benchmarks if name not in report]:
        raise UserError(
            f"{documents / 'report.json'}: does not say what training documents have of {', '.join(missing)}; {_AGAIN}"
        )
    return [
        read_benchmark(
            name,
            folder,
            limit=settings.of(name).limit,
            num_fewshot=settings.of(name).num_fewshot,
            touched=frozenset(report[name]["touched"]),
        )
        for name in settings.benchmarks
    ]


def tabulate(benchmarks: Sequence[Benchmark], nats: np.ndarray, greedy: np.ndarray) -> Items:
    """Return the table of what all choices scored, (choices,) in the order of their requests, and were written greedily."""
    owned = [(benchmark, item, clean) for benchmark in benchmarks
             for item, clean in zip(benchmark.items, benchmark.clean, strict=True)]  # fmt: skip
    firsts = np.cumsum([0, *(len(item.choices) for _, item, _ in owned)])
    answers = np.array([item.answer for _, item, _ in owned], np.int64)
    sizes = [np.array([len(choice.continuation.encode()) for choice in item.choices], np.int64) for _, item, _ in owned]
    return Items(
        benchmark=np.array([benchmark.name for benchmark, *_ in owned], object),
        id=np.array([item.id for _, item, _ in owned], object),
        clean=np.array([clean for *_, clean in owned], np.bool_),
        answer=answers,
        chance=np.array([chance_of(len(item.choices)) for _, item, _ in owned], np.float64),
        nats=[np.asarray(nats[first:end]) for first, end in pairwise(firsts)],
        bytes=sizes,
        greedy=np.asarray(greedy[firsts[:-1] + answers], np.bool_),
    )


def chance_of(choices: int) -> float:
    """Return the accuracy of guessing; of an item with one choice, which must be written, it is 0."""
    return 1 / choices if choices > 1 else 0.0


def summarise(items: Items, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the figures of each benchmark, under `clean` those of its clean items alone (None if there are none)."""
    summary: dict[str, dict[str, Any]] = {}
    for name in names:
        own = items.of_benchmark(name)
        clean = own.clean
        summary[name] = {
            "items": len(own),
            "clean_items": int(clean.sum()),
            **_figures(own, np.ones(len(own), np.bool_)),
            "clean": _figures(own, clean) if clean.any() else None,
        }
    return summary


def _figures(items: Items, chosen: np.ndarray) -> dict[str, float | None]:
    """Return the figures of the chosen items, (items,) bool.

    accuracy: share of items whose right choice is the likeliest; of items with one choice, that greedy decoding writes.
    accuracy_norm: likeliest per byte. standard_error: of accuracy, None for a single item. chance: what guessing would have.
    bits_per_byte: of the right choices. perplexity: exp of the mean nats of the right choice, of items with one choice only.
    """
    count = int(chosen.sum())
    accuracy = float(items.correct[chosen].mean())
    nats, sizes = items.answer_nats[chosen], items.answer_bytes[chosen]
    is_written = all(len(each) == 1 for each in items.nats)
    return {
        "accuracy": accuracy,
        "accuracy_norm": float(items.correct_norm[chosen].mean()),
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / (count - 1)) if count > 1 else None,
        "chance": float(items.chance[chosen].mean()),
        "bits_per_byte": float(nats.sum() / math.log(2) / sizes.sum()),
        "perplexity": _exp(float(nats.mean())) if is_written else None,
    }


def _exp(value: float) -> float | None:
    return math.exp(value) if value < 700 else None  # above, no float holds it


def centred_score(summary: dict[str, dict[str, Any]]) -> float | None:
    """Return the mean over benchmarks of (accuracy - chance) / (1 - chance), as nanochat's CORE: 0 is guessing, 1 all right.

    Benchmarks with one choice (lambada, coqa) enter with the share of answers that greedy decoding writes, and chance 0.
    """
    centred = [(each["accuracy"] - each["chance"]) / (1 - each["chance"]) for each in summary.values()]
    return sum(centred) / len(centred) if centred else None


def _place(item: Item) -> bytes:
    return hashlib.sha256(item.id.encode()).digest()
