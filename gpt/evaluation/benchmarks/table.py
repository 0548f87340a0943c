"""Benchmarks as a table for a terminal: by itself, so that another width of a column evaluates nothing again."""

from typing import Any

Figures = dict[str, Any]
_COLUMNS = ("items", "accuracy", "± se", "chance", "norm", "clean", "bits/byte", "untrained", "perplexity", "untrained")


def format_table(figures: Figures) -> str:
    """Return the figures as a table for a terminal."""
    rows = [["benchmark", *_COLUMNS]]
    for name, each in figures["benchmarks"].items():
        blank, clean = each["untrained"], each["clean"]
        rows.append(
            [
                name,
                f"{each['items']:,}",
                _shown(each["accuracy"], 3),
                _shown(each["standard_error"], 3),
                _shown(each["chance"], 3),
                _shown(each["accuracy_norm"], 3),
                f"{_shown(clean and clean['accuracy'], 3)} of {each['clean_items']:,}",
                _shown(each["bits_per_byte"], 3),
                _shown(blank["bits_per_byte"], 3),
                _shown(each["perplexity"], 1),
                _shown(blank.get("perplexity"), 1),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines += [
        f"{task}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items())
        for task, values in figures.get("tasks", {}).items()
    ]
    centred = figures["centred"]
    return "\n".join(
        [*lines, *([] if centred is None else [f"centred score: {centred:.4f} (0: guessing, 1: all right)"])]
    )


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}" if value < 1e6 else f"{value:.2e}"
