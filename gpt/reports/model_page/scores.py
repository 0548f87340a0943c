"""How good a model is: held-out text by source and by position, benchmarks beside chance; beside the champion's."""

from collections.abc import Sequence
from typing import Any

from gpt.evaluation.held_out import HELD_OUT
from gpt.files import as_object
from gpt.reports.model_page.charts import Bars, Curve, Marks, draw_bars, draw_curves
from gpt.reports.model_page.measured import Measured, wilson
from gpt.reports.model_page.training import colour_of
from gpt.reports.page import captioned, escape_text, folded, note, pictures_in_a_row, table

_MOST_SOURCES = 20
"Bars of more are too many to read; the table has all."
_FEW_TOKENS = 100
"Of a position: what so few say of it is chance."
_FEW_ITEMS = 10
"Met in training: fewer are in the table only."
_LARGE = 1e6
_BITS = "bits per byte (lower is better)"

Json = dict[str, Any]


def describe_held_out(models: Sequence[Measured]) -> str:
    """Return bits per byte of held-out documents: as a whole, by source, by position in the context."""
    rows = []
    for split in HELD_OUT:
        for model in models:
            figures = model.split(split)
            if "bits_per_byte" in figures:
                counts = [figures.get(key, "") for key in ("documents", "bytes", "tokens")]
                rows.append([split, model.name, _number(figures, "bits_per_byte", 4), _number(figures, "loss", 4),
                             _number(figures, "perplexity", 2), *counts])  # fmt: skip
    head = [
        "split",
        "model",
        "bits per byte",
        "loss (nats per token)",
        "perplexity per token",
        "documents",
        "bytes",
        "tokens",
    ]
    if len(models) == 1:
        head, rows = [head[0], *head[2:]], [[row[0], *row[2:]] for row in rows]
    content = note(
        "Bits per byte: how many bits the model needs for a byte of text that it never trained on. Lower is better; it compares"
        " models whatever their tokenizers, which loss and perplexity per token do not."
    )
    content += table(head, rows) + _other_documents(models)
    pictures = [picture for picture in (_sources_picture(models), _positions_picture(models)) if picture]
    if pictures:
        content += pictures_in_a_row(*pictures)
    return (
        content
        + folded("Figures by source", _sources_table(models))
        + folded("Figures by position", _positions_table(models))
    )


def _other_documents(models: Sequence[Measured]) -> str:
    digests = {model.split("test").get("documents_sha256") for model in models}
    if len(models) < 2 or len(digests) == 1:
        return ""
    return note(
        "The two were measured on other test documents, so these figures do not compare; the verdict's do, which are on the"
        " champion's own."
    )


def _sources(models: Sequence[Measured], split: str) -> list[str]:
    """Return the sources of a split, those with the most bytes first."""
    sizes: dict[str, int] = {}
    for model in models:
        for name, figures in model.split(split).get("by_source", {}).items():
            sizes[name] = max(sizes.get(name, 0), figures.get("bytes", 0))
    return sorted(sizes, key=lambda name: (-sizes[name], name))


def _sources_picture(models: Sequence[Measured]) -> str:
    splits = ("test",) if len(models) > 1 else HELD_OUT
    names = list(dict.fromkeys(name for split in splits for name in _sources(models, split)))
    shown = names[:_MOST_SOURCES]
    bars = [
        Bars(
            f"{split}, {model.name}" if len(models) > 1 else split,
            [model.split(split).get("by_source", {}).get(name, {}).get("bits_per_byte") for name in shown],
            colour_of(number if len(models) > 1 else place),
            slot=number if len(models) > 1 else place,
        )
        for place, split in enumerate(splits)
        for number, model in enumerate(models)
    ]
    picture = draw_bars(shown, bars, "Bits per byte by source", _BITS)
    left = f"The {len(shown)} with the most text of {len(names)}; the table has all." if len(names) > len(shown) else ""
    return captioned(picture, "By source", left) if picture else ""


def _positions_picture(models: Sequence[Measured]) -> str:
    splits = ("test",) if len(models) > 1 else HELD_OUT
    curves = []
    for place, split in enumerate(splits):
        for number, model in enumerate(models):
            bins = [
                each
                for each in model.split(split).get("by_position", [])
                if each["bits_per_byte"] is not None and each["tokens"] >= _FEW_TOKENS
            ]
            name = f"{split}, {model.name}" if len(models) > 1 else split
            colour = number if len(models) > 1 else place
            middles = [(each["first"] + each["last"]) / 2 for each in bins]
            curves.append(
                Curve(name, middles, [each["bits_per_byte"] for each in bins], colour_of(colour), colour == 1)
            )
    picture = draw_curves(
        curves, "Bits per byte by position", "tokens before it in the context", "bits per byte", log_x=True
    )
    text = f"How much a longer context helps. Positions of fewer than {_FEW_TOKENS} tokens are in the table only."
    return captioned(picture, "By position in the context", text) if picture else ""


def _sources_table(models: Sequence[Measured]) -> str:
    rows = []
    for split in HELD_OUT:
        for name in _sources(models, split):
            own = [model.split(split).get("by_source", {}).get(name, {}) for model in models]
            sizes = next(figures for figures in own if figures)
            bits = [_number(figures, "bits_per_byte", 4) for figures in own]
            rows.append([split, name, sizes.get("documents", ""), sizes.get("bytes", ""), *bits])
    return table(["split", "source", "documents", "bytes", *_heads("bits per byte", models)], rows) if rows else ""


def _positions_table(models: Sequence[Measured]) -> str:
    content = ""
    for model in models:
        rows = [
            [split, f"{each['first']} to {each['last']}", each["tokens"], _number(each, "bits_per_token", 4),
             _number(each, "bits_per_byte", 4)]
            for split in HELD_OUT
            for each in model.split(split).get("by_position", [])
        ]  # fmt: skip
        if rows:
            head = ["split", "tokens before it", "tokens predicted", "bits per token", "bits per byte"]
            content += (f"<h3>{escape_text(model.name)}</h3>\n" if len(models) > 1 else "") + table(head, rows)
    return content


def describe_benchmarks(models: Sequence[Measured]) -> str:
    """Return accuracies beside chance, items met in training text apart, bits per byte of the right answers, and all figures."""
    names = list(dict.fromkeys(name for model in models for name in model.benchmarks))
    if not names:
        return note("No benchmark was scored: evaluate.benchmarks names none.")
    content = note(
        "Accuracy is the share of items whose right choice is the likeliest; of lambada and coqa, which have one choice, the share"
        " that greedy decoding writes. A small model's is often that of chance; bits per byte of the right answers (lower is"
        " better) tell models apart much earlier. Clean items are those of which no training document had a passage; those"
        f" that were met in training stand apart if they are {_FEW_ITEMS} or more."
    )
    content += pictures_in_a_row(*filter(None, (_accuracies(models, names), _answers(models, names))))
    return content + "".join(_benchmark_table(model, len(models) > 1) for model in models) + _centred(models)


def _accuracies(models: Sequence[Measured], names: list[str]) -> str:
    rows = []
    for name in names:
        met = [_part(model.benchmarks.get(name, {}), "met") for model in models]
        rows += [(name, "clean"), *([(name, "met")] if any(each and each[1] >= _FEW_ITEMS for each in met) else [])]
    bars = []
    for number, model in enumerate(models):
        whose = f", {model.name}" if len(models) > 1 else ""
        for part, title in (("clean", f"clean items{whose}"), ("met", f"met in training{whose}")):
            found = [_part(model.benchmarks.get(name, {}), part) if of == part else None for name, of in rows]
            if part == "met" and not any(found):
                continue
            values = [None if each is None else 100 * each[0] for each in found]
            intervals = [None if each is None else _percents(wilson(*each)) for each in found]
            bars.append(Bars(title, values, colour_of(number), intervals, hatched=part == "met", slot=number))
    chances = [
        next((m.benchmarks[name].get("chance") for m in models if name in m.benchmarks), None) for name, _ in rows
    ]
    marks = [Marks("chance", [None if value is None else 100 * value for value in chances])]
    labels = [name if part == "clean" else f"{name}, met" for name, part in rows]
    picture = draw_bars(labels, bars, "Accuracy of benchmarks", "accuracy in %", marks=marks, most=100)
    text = "Thin lines are 95 % intervals (Wilson), the stroke is what guessing has; with one choice it is 0."
    return captioned(picture, "Accuracy", text)


def _answers(models: Sequence[Measured], names: list[str]) -> str:
    bars = [
        Bars(
            model.name,
            [model.benchmarks.get(name, {}).get("bits_per_byte") for name in names],
            colour_of(number),
            slot=number,
        )
        for number, model in enumerate(models)
    ]
    untrained = [as_object(models[0].benchmarks.get(name, {}).get("untrained")).get("bits_per_byte") for name in names]
    picture = draw_bars(
        names, bars, "Bits per byte of right answers", _BITS, marks=[Marks("untrained weights", untrained, "--")]
    )
    return captioned(picture, "Bits per byte of right answers", "Dashed: the weights that training began with.")


def _part(figures: Json, part: str) -> tuple[float, int] | None:
    """Return accuracy and number of the clean items of a benchmark, or of those met in training text; None if there are none."""
    clean, items, clean_items = as_object(figures.get("clean")), figures.get("items", 0), figures.get("clean_items", 0)
    if part == "clean":
        return (clean["accuracy"], clean_items) if clean else None
    if items <= clean_items:
        return None
    right = figures["accuracy"] * items - clean.get("accuracy", 0.0) * clean_items
    return min(max(right / (items - clean_items), 0.0), 1.0), items - clean_items


def _benchmark_table(model: Measured, several: bool) -> str:
    rows = []
    for name, figures in model.benchmarks.items():
        blank, clean, met = as_object(figures.get("untrained")), _part(figures, "clean"), _part(figures, "met")
        rows.append(
            [
                name,
                figures.get("items", ""),
                _with_error(figures),
                _percent(figures.get("chance")),
                _percent(figures.get("accuracy_norm")),
                *(cell for part in (clean, met) for cell in ((part[1], _percent(part[0])) if part else (0, ""))),
                *(_number(each, "bits_per_byte", 3) for each in (figures, blank)),
                *(_number(each, "perplexity", 1) for each in (figures, blank)),
            ]
        )
    head = [
        "benchmark", "items", "accuracy ± standard error", "chance", "accuracy per byte of choice",
        "clean items", "accuracy on clean items", "items met in training", "accuracy on those",
        "bits per byte of answers", "untrained: bits per byte", "perplexity of answers", "untrained: perplexity",
    ]  # fmt: skip
    title = f"<h3>{escape_text(model.name)}</h3>\n" if several else ""
    return title + table(head, rows) if rows else ""


def _centred(models: Sequence[Measured]) -> str:
    found = [
        f"{model.name + ': ' if len(models) > 1 else ''}{value:.4f}"
        for model in models
        if isinstance(value := model.evaluation.get("centred"), float)
    ]
    if not found:
        return ""
    return note(
        f"Centred score {', '.join(found)}: the mean of (accuracy − chance) / (1 − chance) over benchmarks, as nanochat's CORE;"
        " 0 is guessing, 1 all right."
    )


def _heads(name: str, models: Sequence[Measured]) -> list[str]:
    return [name] if len(models) == 1 else [f"{name}, {model.name}" for model in models]


def _number(figures: Json, key: str, digits: int) -> str:
    value = figures.get(key)
    if not isinstance(value, int | float):
        return ""
    return f"{value:,.{digits}f}" if abs(value) < _LARGE else f"{value:.2e}"


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else ""


def _with_error(figures: Json) -> str:
    accuracy, error = figures.get("accuracy"), figures.get("standard_error")
    return (
        f"{100 * accuracy:.1f} ± {100 * error:.1f} %"
        if accuracy is not None and error is not None
        else _percent(accuracy)
    )


def _percents(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])
