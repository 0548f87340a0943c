"""What of a champion's test documents stands in a candidate's data: in training documents it is contamination.

The pipeline keeps a project's own test documents out of its training documents. The champion may have been judged on others: with
another split seed, a candidate has trained on them. So they are looked for, by the word n-grams of `prepare.decontaminate`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt import paths
from gpt.corpus.arrays import sort_unique
from gpt.corpus.documents import read_documents
from gpt.corpus.words import ngram_hashes, split_words
from gpt.params.corpus import Decontaminate
from gpt.registry.frozen import Frozen
from gpt.sources.items import Item

_MOST = 0.5
"A test document is in other documents if they hold more than this share of its n-grams."


@dataclass(frozen=True)
class Overlap:
    """Shares of the n-grams of a champion's test documents."""

    train: float
    "That stand in the candidate's training documents, but for what more than `max_documents` of those share."
    known: float
    "Share of documents of which most n-grams stand in the candidate's data, whatever the split."


def measure_overlap(frozen: Frozen, project: Path, settings: Decontaminate) -> Overlap:
    """Read all documents of a project once; return what of the frozen test documents stands in them."""
    texts = [document["text"] for document in frozen.documents()]
    folder = project / paths.DOCUMENTS
    train = count_shared(texts, _texts(folder, "train"), settings.ngram)
    held_out = count_shared(texts, _texts(folder, "validation", "test"), settings.ngram)
    most = settings.max_documents or np.iinfo(np.int64).max
    found = [(0 < counts) & (counts <= most) for counts in train]
    grams = sum(len(each) for each in found)
    known = [
        bool(((here > 0) | (there > 0)).mean() > _MOST)
        for here, there in zip(train, held_out, strict=True)
        if len(here)
    ]
    return Overlap(
        train=float(sum(each.sum() for each in found) / grams) if grams else 0.0,
        known=sum(known) / len(known) if known else 0.0,
    )


def find_touched(items: list[Item], project: Path, settings: Decontaminate) -> set[str]:
    """Return the ids of items of which a training document of a project has a passage."""
    owners = [(item.id, text) for item in items for text in item.texts]
    counts = count_shared([text for _, text in owners], _texts(project / paths.DOCUMENTS, "train"), settings.ngram)
    most = settings.max_documents or np.iinfo(np.int64).max
    return {name for (name, _), each in zip(owners, counts, strict=True) if ((0 < each) & (each <= most)).any()}


def count_shared(texts: list[str], documents: Iterable[str], ngram: int) -> list[np.ndarray]:
    """Return for each text how many documents hold each of its n-grams: (n-grams,) int64 an array.

    A text of fewer than `ngram` words has one n-gram, itself as a whole, and is found in documents as short only.
    """
    own = [_grams(text, ngram) for text in texts]
    index = sort_unique(np.concatenate([np.empty(0, np.uint64), *own]))
    counts = np.zeros(len(index), np.int64)
    if len(index):
        for document in documents:
            grams = sort_unique(_grams(document, ngram))
            places = np.searchsorted(index, grams).clip(max=len(index) - 1)
            counts[places[index[places] == grams]] += 1
    return [counts[np.searchsorted(index, grams)] for grams in own]


def _grams(text: str, ngram: int) -> np.ndarray:
    words = split_words(text)
    return ngram_hashes(words, min(ngram, len(words))) if words else np.empty(0, np.uint64)


def _texts(folder: Path, *splits: str) -> Iterator[str]:
    return (document["text"] for split in splits for document in read_documents(folder, split))
