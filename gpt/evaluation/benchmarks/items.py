"""Which items of a benchmark a model is asked, and with which solved examples before them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from gpt.errors import UserError
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
    if num_fewshot and not limit and len(tests) == len(items):
        scored = tests[:-num_fewshot] or tests  # examples have to come from somewhere
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


def _place(item: Item) -> bytes:
    return hashlib.sha256(item.id.encode()).digest()
