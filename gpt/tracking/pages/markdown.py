"""Pieces of Markdown as MLflow's pages show it, from which descriptions are put together."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpt.secrets.hiding import redact
from gpt.tracking.pages.figures import SPLITS

MOST_CHARACTERS = 5000
"That MLflow's tables hold of a description; PostgreSQL refuses more."
OURS = "<!-- what follows is written by gpt -->"
"What a person writes above this line of a description stays there."


def figure_table(evaluation: Mapping[str, Any]) -> str:
    """Return the figures of held-out documents; nothing if there are none."""
    rows = [
        (
            split,
            f"{figures['bits_per_byte']:.4f}",
            f"{figures['perplexity']:.2f}" if isinstance(figures.get("perplexity"), float) else "",
            figures.get("documents", ""),
        )
        for split in SPLITS
        if isinstance(figures := evaluation.get(split), dict) and isinstance(figures.get("bits_per_byte"), float)
    ]
    return table(("held-out documents", "bits per byte", "perplexity", "documents"), rows)


def benchmark_table(evaluation: Mapping[str, Any]) -> str:
    """Return the benchmarks' scores, accuracy beside chance and the rest beside an untrained model's; nothing if there are none."""
    rows = [
        (
            name,
            scores.get("items", ""),
            _share(scores.get("accuracy")) + (f" ± {_share(error)}" if (error := scores.get("standard_error")) else ""),
            _share(scores.get("chance")),
            _beside_untrained(scores, "bits_per_byte", ".3f"),
            _beside_untrained(scores, "perplexity", ",.1f"),
        )
        for name, scores in _benchmarks(evaluation).items()
    ]
    head = ("benchmark", "items", "accuracy ± standard error", "chance", "bits per byte of the answer", "perplexity")
    return table(head, rows)


def benchmark_notes(evaluation: Mapping[str, Any]) -> str:
    """Return what the benchmarks come to together, and how many items training has seen; nothing if there are none."""
    seen = {
        name: scores["items"] - scores["clean_items"]
        for name, scores in _benchmarks(evaluation).items()
        if isinstance(scores.get("items"), int) and isinstance(scores.get("clean_items"), int)
    }
    notes = []
    if isinstance(centred := evaluation.get("centred"), float):
        notes.append(f"Accuracy above chance, mean over the benchmarks (0: guessing, 1: all right): {centred:+.3f}.")
    if found := [f"{count:,} of {name}" for name, count in seen.items() if count]:
        notes.append(f"Items of which a training document has a passage: {', '.join(found)}.")
    elif seen:
        notes.append("No training document has a passage of any of these items.")
    return " ".join(notes)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; nothing if it has no rows. What would end a cell or make a tag is escaped."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def fenced(text: str, language: str) -> str:
    """Return text as a Markdown block of code that no line of it can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def joined(parts: Sequence[str]) -> str:
    """Return parts as one text that MLflow's tables hold: without secrets, control characters, and the parts that do not fit."""
    text = ""
    for part in parts:
        clean = "".join(letter for letter in redact(part) if letter.isprintable() or letter in "\n\t")
        longer = f"{text}\n\n{clean}" if text and clean else text + clean
        text = longer if len(longer) <= MOST_CHARACTERS else text
    return text


def below_own_words(before: str, parts: Sequence[str]) -> str:
    """Return a description of `parts`, with what a person wrote into the one `before` above them."""
    return joined([before.partition(OURS)[0].strip(), OURS, *parts])


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _share(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else ""


def _benchmarks(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found = evaluation.get("benchmarks")
    return {
        name: scores for name, scores in (found if isinstance(found, dict) else {}).items() if isinstance(scores, dict)
    }


def _beside_untrained(scores: Mapping[str, Any], key: str, form: str) -> str:
    """Return a figure, and what weights that have learned nothing have; nothing if it was not measured."""
    found = [each.get(key) if isinstance(each, dict) else None for each in (scores, scores.get("untrained"))]
    own, blank = (_written(value, form) for value in found)
    return f"{own} (untrained {blank})" if own and blank else own


def _written(value: Any, form: str) -> str:
    return "" if not isinstance(value, float) else f"{value:{form}}" if abs(value) < 1e6 else f"{value:.1e}"
