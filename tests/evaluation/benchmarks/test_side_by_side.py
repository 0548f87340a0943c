"""What `python -m benchmarks lm` measures on real items, on made-up ones: 500 of each kind, random weights and trained ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import lm
from gpt import paths
from gpt.sources.items import Item
from tests.conftest import small_change, write_params
from tests.evaluation.benchmarks.made_up import make_items, write_items

KINDS = {"quiz": 4, "pair": 2, "last_word": 1}


def plain(item: Item) -> Item:
    """Without what Hugging Face takes for a special token, and contexts of white space alone, at which lm-eval fails."""
    choices = tuple(
        replace(
            choice,
            context="A:" + choice.context.replace("<|endoftext|>", "end"),
            continuation=choice.continuation.replace("<|endoftext|>", "end"),
        )
        for choice in item.choices
    )
    return replace(item, choices=choices)


@pytest.mark.slow
@pytest.mark.parametrize("items", [50, pytest.param(500, marks=pytest.mark.long)])
def test_items_of_each_kind_score_as_with_lm_evals_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lm, "_FASTER", 0.0)  # no test depends on a clock
    monkeypatch.setattr(lm, "_WIDTH", 64)
    monkeypatch.setattr(lm, "_VOCABULARY", 300)  # the items have few words
    Path("text.jsonl").write_text("", encoding="utf-8")
    change = small_change(Path("text.jsonl").absolute())
    change["evaluate"]["benchmarks"] = list(KINDS)
    write_params(tmp_path, change)
    for name, choices in KINDS.items():
        write_items(paths.BENCHMARKS, [plain(item) for item in make_items(name, items, choices, longest=40)])
    table = lm.measure()  # raises where accuracies, greedy answers or log-likelihoods differ
    assert [row.split(" | ")[1:3] for row in table[2:] if " all " not in row] == [
        [name, str(items)] for name in KINDS
    ] * 2
    assert len(table) == 2 + 2 * (len(KINDS) + 1)
