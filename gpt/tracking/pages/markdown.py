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
    """Return the benchmarks' scores beside chance; nothing if there are none."""
    benchmarks = evaluation.get("benchmarks")
    rows = [
        (
            name,
            scores.get("items", ""),
            _share(scores.get("accuracy")) + (f" ± {_share(error)}" if (error := scores.get("standard_error")) else ""),
            _share(scores.get("chance")),
            f"{scores['bits_per_byte']:.3f}" if isinstance(scores.get("bits_per_byte"), float) else "",
        )
        for name, scores in (benchmarks if isinstance(benchmarks, dict) else {}).items()
        if isinstance(scores, dict)
    ]
    return table(("benchmark", "items", "accuracy ± standard error", "chance", "bits per byte of the answer"), rows)


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
