"""What boilerplate costs, and whether leaks are still found: `python -m tests.corpus.test_boilerplate DOCUMENTS`."""

import hashlib
import json
import random
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from gpt.corpus.splits import choose_split
from gpt.corpus.words import split_words
from gpt.params.corpus import Prepare
from tests.corpus import readmes
from tests.corpus.test_prepare import ENGINE, SHARED, Corpus

LEAKS = 200  # half of them of a benchmark's items, half of held-out documents
MOST_LOST = 0.01


@dataclass(frozen=True)
class Figures:
    bytes: int
    lost: int
    "Bytes of training documents that were cut or dropped, the leaks among them."
    leaks: int
    found: int
    common: int

    def __str__(self) -> str:
        share = f"{100 * self.lost / self.bytes:.2f} % of {self.bytes:,} bytes lost"
        return f"{share}, {self.found} of {self.leaks} planted leaks found, {self.common:,} n-grams left alone"


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def grams(text: str) -> set[tuple[str, ...]]:
    words = split_words(text)
    return {tuple(words[start : start + 13]) for start in range(len(words) - 12)}


def measure(root: Path, count: int, settings: Prepare, leaks: int = LEAKS) -> Figures:
    """Prepare `count` documents with leaks planted into some that are trained on."""
    choose = random.Random(1)
    documents = list(readmes.readmes(count))
    items = [readmes.prose(choose, choose.randint(26, 90)) for _ in range(leaks // 2)]
    # Half of it its own: one that is mostly boilerplate goes as a near copy of another held-out one.
    own = ((text, text.split("\n\n")[1]) for text in documents if choose_split(digest(text), settings) != "train")
    held = (part.split() for text, part in own if len(part) > max(800, len(text) / 2))
    for words in (next(held) for _ in range(leaks - len(items))):
        begins = choose.randrange(len(words) // 4)
        items.append(" ".join(words[begins : begins + choose.randint(40, 60)]))
    planted: dict[str, str] = {}
    for number, item in enumerate(items):
        leak = readmes.leak(item, number, choose)
        while True:
            place = choose.randrange(count)
            text = readmes.plant(documents[place], leak)
            splits = [choose_split(digest(each), settings) for each in (documents[place], text)]
            if splits == ["train", "train"] and digest(documents[place]).hex() not in planted:
                break
        documents[place] = text
        planted[digest(text).hex()] = leak
    corpus = Corpus(root)
    corpus.write({"readmes.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()})
    corpus.write_benchmark("quiz", *items[: leaks // 2])
    counts = corpus.prepare(settings, "quiz")
    left: dict[str, list[str]] = defaultdict(list)
    for record in corpus.records("train"):
        left[record["id"].partition("-")[0]].append(record["text"])
    found = sum(not any(grams(leak) & grams(text) for text in left[name]) for name, leak in planted.items())
    lost = counts["cut"]["bytes"] + counts["dropped"].get("contaminated", {"bytes": 0})["bytes"]
    return Figures(counts["read"]["bytes"], lost, leaks, found, counts["common_ngrams"])


def test_boilerplate_of_readmes_costs_next_to_nothing_and_leaks_are_found(tmp_path: Path) -> None:
    """The long form is `make verify NAMES=boilerplate`, with 100,000 documents."""
    settings = SHARED.model_copy(update={"engine": ENGINE, "shards": 2})
    figures = measure(tmp_path, 1200, settings, leaks=20)
    assert (figures.found, figures.leaks) == (20, 20)
    assert figures.common > 200
    assert figures.lost / figures.bytes < 2 * MOST_LOST, "what few documents share weighs more where there are few"
    decontaminate = settings.decontaminate.model_copy(update={"max_documents": 0})
    (tmp_path / "without").mkdir()
    without = measure(
        tmp_path / "without", 1200, settings.model_copy(update={"decontaminate": decontaminate}), leaks=20
    )
    assert without.lost / without.bytes > 10 * MOST_LOST, "or it tests nothing"


def main() -> int:
    engine = ENGINE.model_copy(update={"workers": 0})
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), int(sys.argv[1]), SHARED.model_copy(update={"engine": engine, "shards": 16}))
    print(figures)
    return int(figures.found < figures.leaks or figures.lost > MOST_LOST * figures.bytes)


if __name__ == "__main__":
    sys.exit(main())
