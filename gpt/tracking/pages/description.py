"""A run's description in MLflow's page: what is trained, and from `gpt evaluate` on how good it is and what it writes."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpt.params.project import Params
from gpt.tracking.pages.figures import name_figures
from gpt.tracking.pages.markdown import aligned, benchmark_notes, benchmark_rows, block, fenced, figure_rows

_SAMPLE_CHARACTERS = 600
_HEADLINES = (
    ("test_bits_per_byte", "bits per byte of test documents"),
    ("benchmarks_centred", "on benchmarks (centred: 0 is guessing, 1 all right)"),
)


def describe_training(params: Params) -> list[str]:
    """Return the parts of the description that is there from the run's start, in Markdown."""
    model, train = params.model, params.train
    sources = ", ".join(source.name for source in params.fetch.sources)
    return [
        f"A GPT of {model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, with {model.block_size} tokens of context,"
        f" trained on {sources} for {train.max_steps:,} steps of {train.batch_size:,} sequences."
    ]


def describe_result(params: Params, evaluation: Mapping[str, Any], samples: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the parts of the description of a finished run: figures of held-out documents, of benchmarks, and a sample.

    MLflow shows the first lines, and the rest when asked: so what counts most comes first.
    """
    sample = f"{samples[0]['prompt']}{samples[0]['completion']}"[:_SAMPLE_CHARACTERS] if samples else ""
    settings = params.evaluate
    measured = f"Measured in {settings.precision}"
    if settings.max_tokens:
        measured += f", on the first {settings.max_tokens:,} tokens of each split"
    return [
        _headline(evaluation),
        *describe_training(params),
        block("", aligned(figure_rows(evaluation))),
        block("", aligned(benchmark_rows(evaluation))),
        benchmark_notes(evaluation),
        f"{measured}. All figures: `evaluation/evaluate.json`.",
        f"A sample (temperature {settings.temperature}, top-k {settings.top_k}):\n\n{fenced(sample, 'text')}"
        if sample
        else "",
    ]


def _headline(evaluation: Mapping[str, Any]) -> str:
    figures = name_figures(evaluation)
    said = [f"**{figures[key]:.4f}** {what}" for key, what in _HEADLINES if key in figures]
    return f"{', '.join(said)}." if said else ""
