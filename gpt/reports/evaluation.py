"""The evaluation as one page that works offline: what was trained on what, curves, held-out text, benchmarks, samples, attention.

`gpt report` writes it of the project's model; it is made of declared outputs alone, so the same outputs make the same bytes.
`write_comparison` writes the same page of a registered version beside the champion, with what only a run knows: throughput,
hardware, commit, the gate's verdict.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.comparison import Difference
from gpt.files import atomic_folder, write_json
from gpt.params.project import Params
from gpt.reports.lineage import draw_lineage
from gpt.reports.model_page.attention import describe_attention
from gpt.reports.model_page.measured import Measured, of_project, read_columns
from gpt.reports.model_page.samples import describe_samples
from gpt.reports.model_page.scores import describe_benchmarks, describe_held_out
from gpt.reports.model_page.training import describe_curves, describe_model, describe_settings, describe_training_data
from gpt.reports.page import Markup, escape_text, note, render, table
from gpt.reports.pictures import in_own_style
from gpt.secrets.hiding import redact_values

Json = dict[str, Any]

PAGE = "index.html"
_CURVES = "training.png"
_HEADLINE = (
    ("test", "bits per byte (test)"),
    ("validation", "bits per byte (validation)"),
)


def write_report(params: Params) -> Path:
    """Write reports/evaluate/ of the project's model, and return the page's path.

    Raises `UserError` if an output of an earlier stage is missing or not as that stage wrote it.
    """
    model = of_project(params)
    made = ", ".join(map(str, (paths.EVALUATION, paths.SAMPLES, paths.ATTENTION, paths.TOKENIZE_COUNTS)))
    with (
        atomic_folder(paths.REPORTS) as folder,
        _told_if_odd(f"{made}: not as `gpt evaluate` and `gpt tokenize` wrote them; run them again"),
    ):
        draw_training(paths.TRAINING_PLOT, paths.VALIDATION_PLOT, folder / _CURVES)
        page = draw_page(f"Evaluation of {params.base.name}", [model])
        (folder / PAGE).write_text(page, encoding="utf-8")
    return paths.REPORTS / PAGE


def write_comparison(
    folder: Path,
    candidate: Measured,
    champion: Measured | None = None,
    verdict: Iterable[Mapping[str, Any]] = (),
    differences: Mapping[str, Difference] | None = None,
) -> Path:
    """Write the page of a candidate, beside the champion if there is one, to `folder`; return the page's path.

    `verdict` has what the gate looked at, `Reason.to_dict()` each; `differences` how much better the candidate is, by metric. Both
    go to comparison.json too. What is not known of one of the two is left out. Raises `UserError` if what a version keeps is not
    of the form that `gpt evaluate` writes.
    """
    models = [candidate] if champion is None else [candidate, champion]
    title, verdict, differences = " beside ".join(model.name for model in models), list(verdict), differences or {}
    with _told_if_odd(f"{title}: their figures are not of the form that `gpt evaluate` writes"):
        page = draw_page(f"Evaluation of {title}", models, verdict, differences)
    record = {
        "models": [model.name for model in models],
        "reasons": verdict,
        "differences": {metric: found.to_dict() for metric, found in differences.items()},
    }
    with atomic_folder(folder) as partial:
        (partial / PAGE).write_text(page, encoding="utf-8")
        write_json(partial / "comparison.json", redact_values(record))
    return folder / PAGE


@contextmanager
def _told_if_odd(message: str) -> Iterator[None]:
    """Raise a `UserError` where a value is missing or of another kind than the page shows."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{message} ({error!r})") from error


def draw_page(
    title: str,
    models: Sequence[Measured],
    verdict: Sequence[Mapping[str, Any]] = (),
    differences: Mapping[str, Difference] | None = None,
) -> str:
    """Return the page of a model, or of a model and the champion beside it."""
    model = models[0]
    sections = {
        "Verdict": _verdict(verdict),
        "On the same texts": _differences(differences or {}),
        "What it was trained on": _trained_on(models),
        "Training": describe_curves(models),
        "Held-out text": describe_held_out(models),
        "Benchmarks": describe_benchmarks(models),
        "Samples": describe_samples(models, _sampling(model)),
        "Attention": describe_attention(models),
        "Lineage": f'<div class="scroll">{draw_lineage(model.lineage)}</div>' if model.lineage else "",
        "Settings": describe_settings(models),
        "Hashes": _hashes(models),
    }
    return render(title, _summary(models), {name: content for name, content in sections.items() if content})


def _summary(models: Sequence[Measured]) -> str:
    """The figures that a person wants first, the champion's under them, and what the model is."""
    facts = [
        (name, *(_figure(model.split(split).get("bits_per_byte")) for model in models)) for split, name in _HEADLINE
    ]
    facts += [
        ("centred benchmark score", *(_figure(model.evaluation.get("centred")) for model in models)),
        ("parameters", *(_count(model.evaluation.get("parameters")) for model in models)),
        ("tokens trained on", *(_count(model.tokens_seen()) for model in models)),
        ("tokens per second (median)", *(_count(model.median_throughput()) for model in models)),
    ]
    boxes = "".join(
        f"<div><b>{escape_text(own)}</b> {escape_text(name)}"
        + "".join(
            f"<small>{escape_text(models[1].name)}: {escape_text(their or 'unknown')}</small>" for their in others
        )
        + "</div>"
        for name, own, *others in facts
        if own
    )
    told = table(["", *(model.name for model in models)], _told(models)) if any(model.facts for model in models) else ""
    what = f"<p>{escape_text(describe_model(models[0]))}</p>\n" if len(models) == 1 else ""
    return f'{what}<div class="facts">{boxes}</div>\n{told}'


def _told(models: Sequence[Measured]) -> list[list[str]]:
    names = dict.fromkeys(name for model in models for name in model.facts)
    return [[name, *(model.facts.get(name, "") for model in models)] for name in names]


def _verdict(verdict: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            Markup(f'<span class="verdict">{"✓ passed" if reason.get("passed") else "✗ failed"}</span>'),
            str(reason.get("check", "")),
            str(reason.get("text", "")),
        ]
        for reason in verdict
    ]
    return table(["", "the gate looked at", "and found"], rows) if rows else ""


def _differences(differences: Mapping[str, Difference]) -> str:
    """Every figure of both models on the texts that the gate asked both, with the interval of the gain."""
    if not differences:
        return ""
    said = "A gain is positive where the candidate is better; low to high is its interval. The gate's verdict rests on these."
    head = ["measure", "candidate", "champion", "gain", "low", "high", "of", "pieces"]
    return note(said) + table(head, [[metric, *_gain(found)] for metric, found in differences.items()])


def _gain(found: Difference) -> list[str | int]:
    known = found.to_dict()["low"] is not None
    interval = [f"{found.low:+.4f}", f"{found.high:+.4f}"] if known else ["none", "none"]
    figures = [f"{found.candidate:.4f}", f"{found.champion:.4f}", f"{found.mean:+.4f}"]
    return [*figures, *interval, f"{found.blocks:,} {found.resampled}", found.pieces]


def _trained_on(models: Sequence[Measured]) -> str:
    contents = [
        describe_training_data(model)
        if model.params
        else note("Not known: an earlier release did not keep its settings.")
        for model in models
    ]
    if len(models) == 1:
        return contents[0]
    whats = [f"<h3>{escape_text(m.name)}</h3>\n<p>{escape_text(describe_model(m))}</p>\n" for m in models]
    if contents[0] == contents[1]:
        return "".join(whats) + f"<h3>Both learned from</h3>\n{contents[0]}"
    return "".join(what + content for what, content in zip(whats, contents, strict=True))


def _sampling(model: Measured) -> str:
    settings = model.section("evaluate")
    limit, top_k = settings.get("max_new_tokens"), settings.get("top_k")
    among = "all tokens" if top_k == 0 else f"the {top_k} likeliest tokens"
    return f" At most {limit:,} tokens, drawn among {among}." if isinstance(limit, int) and top_k is not None else ""


def _hashes(models: Sequence[Measured]) -> str:
    rows = []
    for model in models:
        of = {"weights": model.evaluation.get("weights_sha256")} | {
            f"{split} documents": model.split(split).get("documents_sha256") for split in ("validation", "test")
        }
        rows += [
            [model.name, name, Markup(f'<code class="whole">{escape_text(str(digest))}</code>')]
            for name, digest in of.items()
            if digest
        ]
    if len(models) == 1:
        return table(["of", "SHA-256"], [row[1:] for row in rows]) if rows else ""
    return table(["model", "of", "SHA-256"], rows) if rows else ""


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


@in_own_style
def draw_training(training: Path, validation: Path, output: Path) -> None:
    """Draw the loss curves of plots/training.csv and plots/validation.csv as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*_columns(training, "train_loss"), "-", label="training")
    axes.plot(*_columns(validation, "validation_loss"), "o-", label="validation", markersize=4)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(output), metadata={"Software": None})


def _columns(path: Path, column: str) -> tuple[list[float], list[float]]:
    columns = read_columns(path, ("step", column))
    return columns["step"], columns[column]
