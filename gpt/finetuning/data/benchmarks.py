"""What judges a model is kept out of what it learns from, as in pretraining (gpt/corpus/decontamination.py).

A training example that has `ngram` normalised words in a row with an item of a benchmark is left out, unless so many examples share
these words that they are boilerplate. Items of fewer words cannot be found; the report counts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt.corpus.words import ngram_hashes, split_words
from gpt.finetuning.data.examples import Example, texts_of
from gpt.params.finetuning import Decontaminate
from gpt.sources.benchmarks import check_benchmarks
from gpt.sources.items import read_items

Json = dict[str, Any]
_SHOWN = 10


@dataclass(frozen=True)
class Passages:
    """Every `ngram` words in a row of benchmarks' items."""

    settings: Decontaminate
    hashes: np.ndarray
    "Of the n-grams, (n-grams,) uint64, sorted."
    owners: np.ndarray
    "Number of an item that has each, (n-grams,) int64."
    items: Sequence[str]
    "Ids, as hellaswag/validation/24."
    short: int
    "How many items have fewer words than an n-gram."

    def find(self, examples: Sequence[Example]) -> dict[int, str]:
        """Return the numbers of the examples that hold a passage, each with the id of an item that it is of."""
        held = [self._places(example) for example in examples]
        counts = np.bincount(np.concatenate([np.empty(0, np.int64), *held]), minlength=len(self.hashes))
        most = self.settings.max_examples or len(examples)
        rare = [places[counts[places] <= most] for places in held]
        return {number: self.items[int(self.owners[places[0]])] for number, places in enumerate(rare) if len(places)}

    def _places(self, example: Example) -> np.ndarray:
        """Return which of the n-grams an example has."""
        grams = np.unique(ngram_hashes(split_words("\n".join(texts_of(example))), self.settings.ngram))
        if not len(self.hashes):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.hashes, grams).clip(max=len(self.hashes) - 1)
        return places[self.hashes[places] == grams]


def read_passages(settings: Decontaminate, names: Sequence[str], folder: Path) -> Passages:
    """Read the benchmarks of those names in a folder as data/benchmarks; raise `UserError` if one is not there."""
    if names:
        check_benchmarks(tuple(names), folder)
    items, owners, grams, short = [], [], [], 0
    for item in (item for name in names for item in read_items(folder / f"{name}.jsonl")):
        found = [ngram_hashes(split_words(text), settings.ngram) for text in item.texts]
        hashes = np.concatenate(found)
        short += not len(hashes)
        owners.append(np.full(len(hashes), len(items), np.int64))
        items.append(item.id)
        grams.append(hashes)
    hashes, first = np.unique(np.concatenate([np.empty(0, np.uint64), *grams]), return_index=True)
    return Passages(settings, hashes, np.concatenate([np.empty(0, np.int64), *owners])[first], items, short)


def describe_matches(names: Sequence[str], passages: Passages, matches: Sequence[tuple[str, Example]]) -> Json:
    """Return what a report says of the examples that were left out, each with the item that it has a passage of."""
    shown = [{"item": item, "text": "\n".join(texts_of(example))[:300]} for item, example in matches[:_SHOWN]]
    return {"names": list(names), "items": len(passages.items), "short": passages.short, "matches": shown}
