"""`gpt compare A B …`: models side by side, in the terminal, as one page that needs nothing else, and as JSON.

It decides nothing: which of two models is better, with an interval, is for `gpt promote` to say, which asks both the same.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.files import atomic_folder, write_json
from gpt.reports.columns import aligned
from gpt.reports.model_page.samples import describe_samples
from gpt.reports.page import Markup, escape_text, note, render, table
from gpt.reports.side_by_side.curves import as_file, draw_curves
from gpt.reports.side_by_side.subject import (
    Row,
    Subject,
    differing_settings,
    have_one_tokenizer,
    measured_on_other_documents,
    rows_of,
)
from gpt.secrets.hiding import redact, redact_values

PAGE, PICTURE, RECORD = "index.html", "curves.svg", "comparison.json"
_VALUE_CHARACTERS = 40
"Of a setting in the terminal."
_PER_BYTE = "Their tokenizers differ: loss and perplexity, which are per token, do not compare and are left out. Bits per byte do."
_OTHER_DOCUMENTS = (
    "They were measured on other test documents: no figure of held-out text says which of them is better."
)
_CAUTION = (
    "The best figure is not a verdict: differences as small as chance makes them count here too. `gpt promote` compares two"
    " versions on the same texts, with intervals."
)


def describe(subjects: Sequence[Subject]) -> str:
    """Return the comparison as text for a terminal: who is who, settings that differ, figures, what is missing."""
    names, rows = [subject.name for subject in subjects], rows_of(subjects)
    settings = [[key, *map(_short, values)] for key, values in differing_settings(subjects).items()]
    figures = [[row.name, row.better, *row.texts(), _best(row, names)] for row in rows]
    blocks = [
        aligned(["model", "is"], [[subject.name, subject.what] for subject in subjects]),
        aligned(["settings that differ", *names], settings) if settings else "settings that differ: none",
        aligned(["figure", "better", *names, "best"], figures, numbers=range(2, 2 + len(names))) if figures else "",
        "\n".join([*_warnings(subjects), *(f"{name}: {text}" for name, text in _notes(subjects))]),
    ]
    return redact("\n\n".join(block for block in blocks if block))


def to_record(subjects: Sequence[Subject]) -> dict[str, Any]:
    """Return the comparison as JSON values: models, settings that differ, figures, each by model."""
    names = [subject.name for subject in subjects]
    return redact_values({
        "models": [{"name": each.name, "is": each.what, "notes": each.all_notes()} for each in subjects],
        "settings": {
            key: dict(zip(names, values, strict=True)) for key, values in differing_settings(subjects).items()
        },
        "figures": {
            row.name: {"better": row.better or None, "best": _best(row, names) or None}
            | {"values": dict(zip(names, row.values, strict=True))}
            for row in rows_of(subjects)
        },
        "same_tokenizer": have_one_tokenizer(subjects),
        "same_test_documents": not measured_on_other_documents(subjects),
    })  # fmt: skip


def write(subjects: Sequence[Subject], folder: Path = paths.COMPARE) -> Path:
    """Write the page, its picture and its record to `folder`, all or nothing; return the page's path."""
    picture = draw_curves(subjects, per_token=have_one_tokenizer(subjects))
    with atomic_folder(folder) as partial:
        (partial / PAGE).write_text(_page(subjects, picture), encoding="utf-8")
        if picture:
            (partial / PICTURE).write_text(as_file(picture), encoding="utf-8")
        write_json(partial / RECORD, to_record(subjects))
    return folder / PAGE


def _page(subjects: Sequence[Subject], picture: str) -> str:
    names, rows = [subject.name for subject in subjects], rows_of(subjects)
    settings = [
        [_code(key), *(_code(value) for value in values)] for key, values in differing_settings(subjects).items()
    ]
    figures = [[row.name, row.better, *row.texts(), _best(row, names)] for row in rows]
    sections = {
        "Models": table(["model", "is"], [[subject.name, redact(subject.what)] for subject in subjects])
        + "".join(note(text) for text in _warnings(subjects))
        + "".join(note(f"{name}: {redact(text)}") for name, text in _notes(subjects)),
        "Settings that differ": table(["key of params.yaml", *names], settings),
        "Figures": table(["figure", "better", *names, "best"], figures) + (note(_CAUTION) if figures else ""),
        "Curves": f"<figure>{picture}</figure>\n" if picture else note("None of them has a curve."),
        "Samples": describe_samples([subject.measured for subject in subjects], ""),
    }
    return render(" beside ".join(names), "", sections)


def _warnings(subjects: Sequence[Subject]) -> list[str]:
    warnings = [] if have_one_tokenizer(subjects) else [_PER_BYTE]
    return [*warnings, _OTHER_DOCUMENTS] if measured_on_other_documents(subjects) else warnings


def _notes(subjects: Sequence[Subject]) -> Iterator[tuple[str, str]]:
    for subject in subjects:
        yield from ((subject.name, text) for text in subject.all_notes())


def _best(row: Row, names: Sequence[str]) -> str:
    place = row.best()
    return "" if place is None else names[place]


def _code(text: str) -> Markup:
    return Markup(f"<code>{escape_text(redact(text))}</code>")


def _short(value: str) -> str:
    shown = redact(value)  # before it is cut
    return shown if len(shown) <= _VALUE_CHARACTERS else f"{shown[: _VALUE_CHARACTERS - 1]}…"
