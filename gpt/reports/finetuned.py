"""A fine-tuned model as one page that works offline: how good it is and beside what, what it got wrong or said, how it learned.

`gpt finetune report NAME` writes finetuning/NAME/report.html of declared outputs alone: the same outputs make the same bytes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt.errors import UserError
from gpt.files import atomic_file, read_json
from gpt.finetuning.places import Places
from gpt.params.finetuning import Recipe, load_recipe
from gpt.params.types import flatten
from gpt.reports.model_page.charts import Bars, Curve, Marks, draw_bars, draw_curves
from gpt.reports.model_page.measured import Columns, read_columns
from gpt.reports.page import (
    Markup,
    captioned,
    escape_text,
    folded,
    note,
    pictures_in_a_row,
    quote,
    render,
    short_hash,
    table,
)
from gpt.reports.pictures import COLOURS
from gpt.secrets.hiding import redact
from gpt.tracking.pages.figures import MAIN_FIGURES
from gpt.tracking.pages.markdown import finetuned_rows

_UNITS = {"bits_per_byte": "bits per byte (test answers)", "exact_match": "exact matches (mean over tasks)"}
Json = dict[str, Any]


def write_report(name: str) -> Path:
    """Write the page of a recipe's model and return its path; raise `UserError` if an output is missing or of another form."""
    recipe, places = load_recipe(name), Places(name)
    again = f"run `gpt finetune evaluate {name}` again"
    evaluation = read_json(places.evaluation, again, ("task", "base", "examples", "weights_sha256"))
    about = read_json(
        places.data / "report.json", f"run `gpt finetune data {name}` again", ("splits", "left_out", "benchmarks")
    )
    training = read_columns(places.training_plot, ("step", "train_loss"))
    validation = read_columns(places.validation_plot, ("step", "validation_loss"))
    try:
        page = draw_page(name, recipe, evaluation, about, training, validation)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{places.evaluation}: not as `gpt finetune evaluate` wrote it ({error!r}); {again}") from error
    with atomic_file(places.report) as partial:
        partial.write_text(page, encoding="utf-8")
    return places.report


def draw_page(name: str, recipe: Recipe, evaluation: Json, about: Json, training: Columns, validation: Columns) -> str:
    """Return the page; `about` is what report.json of the examples says."""
    sections = {
        "On test examples": _scores(evaluation),
        "Classes": _classes(evaluation),
        "Mistakes": _mistakes(evaluation),
        "Answers": _answers(evaluation),
        "What was forgotten": _forgetting(evaluation, recipe),
        "Training": _curves(training, validation),
        "Examples": _examples(recipe, about),
        "Recipe": _settings(recipe),
        "Hashes": _hashes(evaluation, about),
    }
    shown = {heading: content for heading, content in sections.items() if content}
    return render(f"Fine-tuning {name}", _summary(recipe, evaluation, about), shown)


def _summary(recipe: Recipe, evaluation: Json, about: Json) -> str:
    base = evaluation["base"]
    started = redact(str(base.get("uri") or base["init_from"]))
    text = (
        f"Fine-tuned from {started} by method {recipe.method.kind} for task {recipe.task.kind}, on"
        f" {about['splits']['train']['examples']:,} examples."
    )
    boxes = "".join(
        f"<div><b>{escape_text(_percent(evaluation[key]) if key != 'bits_per_byte' else f'{evaluation[key]:.4f}')}</b>"
        f" {escape_text(_UNITS.get(key, key))}</div>"
        for key in (*MAIN_FIGURES, "ended")
        if isinstance(evaluation.get(key), float)
    )
    return f'<p>{escape_text(text)}</p>\n<div class="facts">{boxes}</div>\n'


def _scores(evaluation: Json) -> str:
    said = (
        f"{evaluation['examples']:,} examples that were kept for the test. Beside a figure stands what it must be better than"
        " to be worth anything. Intervals are Wilson's, of 95 %."
    )
    content = note(said) + table(*finetuned_rows(evaluation))
    picture = draw_bars(*_shares(evaluation), label="Shares of test examples", unit="share", most=1.0)
    return content + (pictures_in_a_row(captioned(picture, "Shares", "with 95 % intervals")) if picture else "")


def _shares(evaluation: Json) -> tuple[list[str], list[Bars]]:
    """Return the shares that were measured as rows and bars."""
    found: list[tuple[str, Json, str]] = [(key, evaluation, key) for key in ("accuracy", "preferred", "ended")]
    found[1:1] = [(task, figures, "exact_match") for task, figures in evaluation.get("tasks", {}).items()]
    known = [(name, figures, key) for name, figures, key in found if isinstance(figures.get(key), float)]
    bars = [
        Bars(
            "this model",
            [figures[key] for _, figures, key in known],
            intervals=[tuple(figures[f"{key}_interval"]) for _, figures, key in known],
        )
    ]
    floor = {"accuracy": evaluation.get("baseline", {}).get("accuracy"), "preferred": 0.5}
    beside = [floor.get(key) if key == name else None for name, _, key in known]
    if any(value is not None for value in beside):
        bars.append(Bars("naive Bayes, or a coin", beside, COLOURS[1], hatched=True, slot=1))
    return [name for name, _, _ in known], bars


def _classes(evaluation: Json) -> str:
    if "confusion" not in evaluation:
        return ""
    labels, baseline = evaluation["labels"], evaluation["baseline"]
    rows = [
        [label, *(f"{count:,}" for count in counts), *_precision(evaluation, label), *_precision(baseline, label)]
        for label, counts in zip(labels, evaluation["confusion"], strict=True)
    ]
    head = [
        "class",
        *(f"said {label}" for label in labels),
        "precision",
        "recall",
        "precision (naive Bayes)",
        "recall (naive Bayes)",
    ]
    return note("Rows are what texts are, columns what the model said: the confusion matrix.") + table(head, rows)


def _precision(figures: Json, label: str) -> list[str]:
    return [_percent(figures["classes"][label][key]) for key in ("precision", "recall")]


def _mistakes(evaluation: Json) -> str:
    if "mistakes" not in evaluation:
        return ""
    rows = [[quote(each["text"]), each["is"], each["said"]] for each in evaluation["mistakes"]]
    return note("The first texts that it got wrong.") + table(["text", "is", "said"], rows)


def _answers(evaluation: Json) -> str:
    if "answered" not in evaluation:
        return ""
    rows = [
        [Markup("".join(_turns(sample["asked"]))), quote(sample["answer"]), quote(sample["wanted"])]
        for sample in evaluation["samples"]
    ]
    said = f"Of {evaluation['answered']:,} answers, of {evaluation['answer_tokens']:.1f} tokens on average, the first ones."
    return note(said) + table(["asked", "answered", "wanted"], rows)


def _turns(messages: Sequence[Json]) -> Iterator[str]:
    for message in messages:
        yield f"<b>{escape_text(message['role'])}</b>{quote(message['content'])}"


def _forgetting(evaluation: Json, recipe: Recipe) -> str:
    forgetting = evaluation.get("forgetting")
    if not forgetting:
        return ""
    before, after = forgetting["before"], forgetting["after"]
    said = (
        f"The base model's own held-out text, {forgetting['bytes']:,} bytes, costs {after:.4f} bits per byte, {after - before:+.4f}"
        f" against before ({before:.4f}). To be promoted, at most {recipe.promote.max_forgetting:+g}."
    )
    limit = Marks("at most, to be promoted", [None, before + recipe.promote.max_forgetting], "--")
    bars = [Bars("bits per byte", [before, after])]
    picture = draw_bars(["before", "after"], bars, "Forgetting", "bits per byte (lower is better)", marks=[limit])
    return f"<p>{escape_text(said)}</p>\n" + pictures_in_a_row(captioned(picture, "Held-out text of the base model"))


def _curves(training: Columns, validation: Columns) -> str:
    losses = [
        Curve("training", training["step"], training["train_loss"]),
        Curve("validation", validation["step"], validation["validation_loss"], COLOURS[1], dashed=True),
    ]
    pictures = [captioned(draw_curves(losses, "Loss", "optimizer step", "loss"), "Loss")]
    for name, values in validation.items():
        if name not in ("step", "validation_loss"):
            what = name.removeprefix("validation_").replace("_", " ")
            curve = Curve(what, validation["step"], values, COLOURS[1], dashed=True)
            pictures.append(captioned(draw_curves([curve], what, "optimizer step", what), f"Validation: {what}"))
    rows = [
        [f"{step:.0f}", f"{loss:.4f}"]
        for step, loss in zip(validation["step"], validation["validation_loss"], strict=True)
    ]
    return pictures_in_a_row(*pictures) + folded("Figures", table(["step", "validation loss"], rows))


def _examples(recipe: Recipe, about: Json) -> str:
    rows = [
        [
            split,
            *(f"{figures[key]:,}" for key in ("examples", "tokens", "with_loss", "longest")),
            _counted(figures["of_each"]),
        ]
        for split, figures in about["splits"].items()
    ]
    content = table(["split", "examples", "tokens", "with a loss", "longest", "of each"], rows)
    sources = [[source.name, redact(str(source.identity)), source.licence] for source in recipe.data.sources]
    content += table(["source", "identity", "licence"], sources)
    content += note(f"Left out: {_counted(about['left_out'])}.") if about["left_out"] else ""
    return content + _clean_of(recipe, about["benchmarks"])


def _clean_of(recipe: Recipe, benchmarks: Json) -> str:
    """Tell which benchmarks no training example has a passage of, and show examples that had one."""
    if not benchmarks["names"]:
        return note("Not compared with any benchmark.")
    ngram, most = recipe.data.decontaminate.ngram, recipe.data.decontaminate.max_examples
    said = (
        f"No training example has {ngram} words in a row with one of {benchmarks['items']:,} items of"
        f" {', '.join(benchmarks['names'])}, but for words that more than {most} examples share."
        f" {benchmarks['short']:,} items are shorter and cannot be found."
    )
    rows = [[match["item"], quote(match["text"])] for match in benchmarks["matches"]]
    return note(said) + (table(["left out: item of a benchmark", "example"], rows) if rows else "")


def _counted(counts: Json) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if name)


def _settings(recipe: Recipe) -> str:
    values = flatten(recipe.model_dump(mode="json", exclude={"data": {"sources"}}), "")
    return folded(
        "Settings", table(["setting", "value"], [[key.strip("."), str(value)] for key, value in values.items()])
    )


def _hashes(evaluation: Json, about: Json) -> str:
    hashes = {"weights": evaluation["weights_sha256"], "weights of the base": evaluation["base"]["weights_sha256"]}
    hashes |= {f"{split} examples": figures["sha256"] for split, figures in about["splits"].items()}
    return table(["of", "SHA-256"], [[name, short_hash(digest)] for name, digest in hashes.items()])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
