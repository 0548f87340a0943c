"""Of what and how a model was trained: size, sources, settings, curves over steps; beside the champion's, if one is given."""

import json
import math
from collections.abc import Sequence
from typing import Any

from gpt.params.types import flatten
from gpt.reports.model_page.charts import OURS, THEIRS, Curve, draw_curves
from gpt.reports.model_page.measured import Measured
from gpt.reports.page import (
    Markup,
    captioned,
    escape_text,
    folded,
    note,
    pictures_in_a_row,
    shares_of,
    short_hash,
    table,
)
from gpt.reports.pictures import short_number
from gpt.secrets.hiding import redact

_ROWS = 25
"Of the curves' tables: of more steps, every so many."
_SPLITS = ("train", "validation", "test")

Json = dict[str, Any]


def describe_training_data(model: Measured) -> str:
    """Return the sources with their licences, what of them was trained on, and what of benchmarks was met there."""
    sources = model.section("fetch").get("sources", [])
    train = model.tokens.get("train", {})
    entries = [train.get("by_source", {}).get(source.get("name"), {}) for source in sources]
    shares = shares_of([entry.get("tokens", 0) for entry in entries], train.get("tokens", 0))
    head = ["source", "from", "licence", "documents", "bytes", "tokens", "share of tokens", "SHA-256"]
    rows = [
        [
            str(source.get("name", "")),
            redact(str(source.get("package") or source.get("url") or source.get("path") or "")),
            str(source.get("licence", "")),
            *(entry.get(key, "") for key in ("documents", "bytes", "tokens")),
            share,
            short_hash(str(source.get("sha256", ""))),
        ]
        for source, entry, share in zip(sources, entries, shares, strict=True)
    ]
    content = table(head, rows) + _splits(model.tokens)
    met = {name: counts for name, counts in model.contamination.items() if counts.get("touched")}
    if model.contamination:
        text = "; ".join(f"{name}: {counts['touched']:,} of {counts['items']:,} items" for name, counts in met.items())
        content += note(
            f"Passages of these benchmarks and held-out documents were met in training documents: {text or 'none'}."
            " What became of them is in the data card, reports/data.html."
        )
    return content


def _splits(tokens: Json) -> str:
    rows = [
        [split, *(tokens[split].get(key, "") for key in ("documents", "bytes", "tokens"))]
        for split in _SPLITS
        if split in tokens
    ]
    return table(["split", "documents", "bytes", "tokens of an epoch"], rows) if rows else ""


def describe_model(model: Measured) -> str:
    """Return in a sentence or two what the model is and how long it was trained."""
    shape, train = model.section("model"), model.section("train")
    parameters = model.evaluation.get("parameters")
    said = [f"{parameters:,} parameters"] if parameters else []
    said += [_counted(shape[key], one, many) for key, (one, many) in _SHAPE.items() if key in shape]
    text = f"A GPT of {', '.join(said)}." if said else "A GPT."
    if seen := model.tokens_seen():
        steps, batch, length = train["max_steps"], train["batch_size"], shape["block_size"]
        epoch = model.tokens.get("train", {}).get("tokens")
        text += f" Trained for {steps:,} steps of {batch:,} sequences of {length:,} tokens: {short_number(seen)} tokens"
        text += f", {seen / epoch:.2g} times its training text." if epoch else "."
        text += "".join(f" {what}: {train[key]}." for key, what in _HOW.items() if key in train)
    return text


_SHAPE = {
    "n_layer": ("layer", "layers"),
    "n_head": ("head", "heads"),
    "n_embd": ("dimension", "dimensions"),
    "block_size": ("token of context", "tokens of context"),
}
_HOW = {"optimizer": "Optimizer", "precision": "Precision"}


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def describe_curves(models: Sequence[Measured]) -> str:
    """Return loss, bits per byte, learning rate, gradient norm and throughput by optimizer step, with a table under them."""
    several = len(models) > 1
    losses = [curve for number, model in enumerate(models) for curve in _losses(number, model, several)]
    picture = draw_curves(losses, "Training and validation loss by step", "optimizer step", "loss (nats per token)")
    text = "Lower is better. Validation is on documents that were never trained on."
    text += " Tokens of two tokenizers do not compare: see bits per byte." if several else ""
    charts = [captioned(picture, "Loss", text) if picture else ""]
    for column, title, unit, text in _CHARTS:
        curves = [_curve(number, model, column, several) for number, model in enumerate(models)]
        picture = draw_curves(curves, f"{title} by step", "optimizer step", unit, log_y=column == "gradient_norm")
        charts.append(captioned(picture, title, text) if picture else "")
    shown = [chart for chart in charts if chart]
    missing = sum(
        not math.isfinite(value) for model in models for columns in (model.training, model.validation)
        for values in columns.values() for value in values
    )  # fmt: skip
    content = pictures_in_a_row(*shown) if shown else note("No step was recorded.")
    if missing:
        content += note(f"{missing:,} recorded values are not finite numbers; the curves leave them out.")
    if not any(model.throughput for model in models):
        content += note("Throughput is of the machine and no result: MLflow has it, by step, at the run.")
    return content + "".join(_tables(model, several) for model in models)


_CHARTS = (
    (
        "validation_bits_per_byte",
        "Validation bits per byte",
        "bits per byte",
        "Lower is better; compares across tokenizers.",
    ),
    ("learning_rate", "Learning rate", "learning rate", "Of AdamW; Muon's rises and falls alike."),
    ("gradient_norm", "Gradient norm", "global L2 norm", "Before clipping; logarithmic."),
    (
        "throughput",
        "Throughput",
        "tokens per second",
        "By a stopwatch, over all processes: of the machine, no result.",
    ),
)


def colour_of(number: int) -> str:
    """Return the colour of the model, 0, or of the champion beside it, 1."""
    return (OURS, THEIRS)[number]


def _losses(number: int, model: Measured, several: bool) -> list[Curve]:
    colours = [colour_of(number)] * 2 if several else [OURS, THEIRS]
    whose = f", {model.name}" if several else ""
    return [
        Curve(f"{kind}{whose}", columns["step"], columns[column], colour, dashed=number == 1, width=width)
        for kind, columns, column, colour, width in (
            ("training", model.training, "train_loss", colours[0], 0.9),
            ("validation", model.validation, "validation_loss", colours[1], 1.6),
        )
        if column in columns and "step" in columns
    ]


def _curve(number: int, model: Measured, column: str, several: bool) -> Curve:
    if column == "throughput":
        steps, values = [step for step, _ in model.throughput], [rate for _, rate in model.throughput]
    else:
        columns = model.validation if column.startswith("validation") else model.training
        values = columns.get(column, [])
        steps = columns.get("step", [])[: len(values)]
        values = values[: len(steps)]
    return Curve(model.name, steps, values, colour_of(number), dashed=number == 1)


def _tables(model: Measured, several: bool) -> str:
    whose = f" of {model.name}" if several else ""
    content = ""
    for columns in (model.training, model.validation):
        if rows := _rows(columns):
            content += table([name.replace("_", " ") for name in columns], rows)
    if model.throughput:
        rows = [[step, f"{rate:,.0f}"] for step, rate in _thinned(list(model.throughput))]
        content += table(["step", "tokens per second"], rows)
    return folded(f"Figures of the curves{whose}", content)


def _rows(columns: dict[str, list[float]]) -> list[list[Any]]:
    rows = list(zip(*columns.values(), strict=True)) if "step" in columns else []
    return [
        [int(value) if name == "step" else _digits(value) for name, value in zip(columns, row, strict=True)]
        for row in _thinned(rows)
    ]


def _digits(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def _thinned(rows: list[Any]) -> list[Any]:
    """Return every so many rows, and the last."""
    stride = -(-len(rows) // _ROWS) or 1
    return [row for number, row in enumerate(rows) if (len(rows) - 1 - number) % stride == 0]


def describe_settings(models: Sequence[Measured]) -> str:
    """Return the settings that decide the weights; of two models, those that differ come first."""
    flat = [
        {
            key: _shown(value)
            for section, values in model.settings().items()
            for key, value in sorted(flatten(values, section).items())
        }
        for model in models
    ]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    rows = [[key, *(settings.get(key, "") for settings in flat)] for key in keys]
    if len(models) == 1:
        return folded("Settings that decide the weights", table(["key of params.yaml", "value"], rows))
    head = ["key of params.yaml", *(model.name for model in models)]
    differing = [row for row in rows if row[1] != row[2]]
    return (
        f"<h3>What differs</h3>\n{table(head, differing)}" + folded("All settings that decide the weights", table(head, rows))
    )  # fmt: skip


def _shown(value: Any) -> Markup:
    return Markup(f"<code>{escape_text(json.dumps(value, ensure_ascii=False))}</code>")
