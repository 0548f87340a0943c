"""Pieces of Markdown as MLflow's pages show it, from which descriptions are put together."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpt.secrets.hiding import redact
from gpt.tracking.pages.figures import SPLITS

MOST_CHARACTERS = 5000
"That MLflow's tables hold of a description; PostgreSQL refuses more."
OURS = "<!-- what follows is written by gpt -->"
"What a person writes above this line of a description stays there."
Rows = tuple[list[str], list[list[str]]]
"The head of a table, and its rows."


def figure_rows(evaluation: Mapping[str, Any]) -> Rows:
    """Return the figures of held-out documents, with no row if there are none."""
    rows = [
        [
            split,
            f"{figures['bits_per_byte']:.4f}",
            _written(figures.get("perplexity"), ",.2f"),
            _documents(figures),
        ]
        for split in SPLITS
        if isinstance(figures := evaluation.get(split), dict) and isinstance(figures.get("bits_per_byte"), float)
    ]
    return ["held-out documents", "bits per byte", "perplexity", "documents"], rows


def finetuned_rows(evaluation: Mapping[str, Any]) -> Rows:
    """Return what a fine-tuned model scored on its test examples, beside its floor; no row if it is none."""
    rows: list[list[str]] = []

    def add(what: str, figures: Mapping[str, Any], key: str, floor: str = "") -> None:
        if isinstance(value := figures.get(key), float):
            low, high = figures.get(f"{key}_interval") or (None, None)
            interval = f"{_share(low)} to {_share(high)}" if low is not None else ""
            rows.append([what, _share(value) if key != "bits_per_byte" else f"{value:.4f}", interval, floor])

    baseline, base = evaluation.get("baseline", {}), evaluation.get("base_bits_per_byte")
    add("accuracy", evaluation, "accuracy", f"{_share(baseline.get('accuracy'))} (naive Bayes)")
    add("bits per byte of answers", evaluation, "bits_per_byte", f"{_written(base, '.4f')} (base model)")
    for task, figures in (evaluation.get("tasks") or {}).items() if "recipe" in evaluation else ():
        floor = f"{_share(figures['base_exact_match'])} (base model)" if "base_exact_match" in figures else ""
        add(f"exact matches: {task}", figures, "exact_match", floor)
    add("answers that end", evaluation, "ended")
    add("preferred answers", evaluation, "preferred", "50.0 % (a coin)")
    if forgetting := evaluation.get("forgetting"):
        before = f"{forgetting['before']:.4f} (base model)"
        rows.append(["bits per byte of the base's held-out text", f"{forgetting['after']:.4f}", "", before])
    return ["on test examples", "model", "95 % interval", "beside"], rows


def benchmark_rows(evaluation: Mapping[str, Any]) -> Rows:
    """Return the benchmarks' scores, accuracy beside chance and the rest beside an untrained model's."""
    rows = [
        [
            name,
            str(scores.get("items", "")),
            _share(scores.get("accuracy")) + (f" ± {_share(error)}" if (error := scores.get("standard_error")) else ""),
            _share(scores.get("chance")),
            _beside_untrained(scores, "bits_per_byte", ".3f"),
            _beside_untrained(scores, "perplexity", ",.1f"),
        ]
        for name, scores in _scored(evaluation).items()
    ]
    # Bits per byte are those of the right answers, perplexity that of answers without a choice.
    return [
        "benchmark",
        "items",
        "accuracy ± s.e.",
        "chance",
        "bits per byte (untrained)",
        "perplexity (untrained)",
    ], rows


def benchmark_notes(evaluation: Mapping[str, Any]) -> str:
    """Return what the benchmarks come to together, and how many items training has seen; nothing if there are none."""
    seen = {
        name: scores["items"] - scores["clean_items"]
        for name, scores in _scored(evaluation).items()
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; nothing if it has no rows. What would end a cell or make a tag is escaped."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def align(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Return the lines of a table, with as many of the first columns as fit into a width; the first three always are there."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    count = len(head)
    while width is not None and count > 3 and sum(widths[:count]) + 2 * (count - 1) > width:
        count -= 1
    return [
        "  ".join(f"{text:<{size}}" for text, size in zip(line[:count], widths, strict=False)).rstrip()
        for line in lines
    ]


def aligned(rows: Rows) -> list[str]:
    """Return the lines of a table, none if it has no rows."""
    return align(*rows) if rows[1] else []


def fenced(text: str, language: str) -> str:
    """Return text as a Markdown block of code that no line of it can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def block(head: str, lines: Sequence[str]) -> str:
    """Return lines as they are, below a head; nothing without lines.

    Tables are aligned text, not Markdown's: MLflow shows those without any space between columns, and @champion as a link.
    """
    if not lines:
        return ""
    text = fenced("\n".join(lines), "text")
    return f"{head}\n\n{text}" if head else text


def joined(parts: Sequence[str]) -> str:
    """Return parts as one text that MLflow's tables hold: without secrets, control characters, and the parts that do not fit."""
    text = ""
    for part in parts:
        clean = "".join(letter for letter in redact(part) if letter.isprintable() or letter in "\n\t")
        longer = f"{text}\n\n{clean}" if text and clean else text + clean
        text = longer if len(longer) <= MOST_CHARACTERS else text
    return text


def below_own_words(before: str, parts: Sequence[str]) -> str:
    """Return a description of `parts`, with what a person wrote into the one `before` above them.

    Beside a very long text of a person there is no room for ours.
    """
    own = before.partition(OURS)[0].strip()
    return before if len(own) > MOST_CHARACTERS // 2 else joined([own, OURS, *parts])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _share(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else ""


def _beside_untrained(scores: dict[str, Any], key: str, form: str) -> str:
    """Return a figure, and what weights that have learned nothing have; nothing if it was not measured."""
    found = [each.get(key) if isinstance(each, dict) else None for each in (scores, scores.get("untrained"))]
    own, blank = (_written(value, form) for value in found)
    return f"{own} ({blank})" if own and blank else own


def _documents(figures: dict[str, Any]) -> str:
    """Return how many documents were scored, and of how many where evaluate.max_tokens left some out."""
    scored, split = figures.get("documents", ""), figures.get("split_documents")
    return str(scored) if split in (None, scored) else f"{scored} of {split}"


def _written(value: Any, form: str) -> str:
    return "" if not isinstance(value, float) else f"{value:{form}}" if abs(value) < 1e6 else f"{value:.1e}"


def _scored(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    benchmarks = evaluation.get("benchmarks")
    found = benchmarks.items() if isinstance(benchmarks, dict) else ()
    return {name: scores for name, scores in found if isinstance(scores, dict)}
