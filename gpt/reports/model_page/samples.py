"""What a model writes after each prompt, by temperature; beside what the champion writes."""

from collections.abc import Sequence
from typing import Any

from gpt.reports.model_page.measured import Measured
from gpt.reports.page import Markup, escape_text, note, table

_SAMPLE_CHARACTERS = 2000

Json = dict[str, Any]


def describe_samples(models: Sequence[Measured], sampling: str) -> str:
    """Return what was written after each prompt, by temperature; `sampling` says how else it was drawn."""
    prompts = list(dict.fromkeys(sample["prompt"] for model in models for sample in _samples(model)))
    if not prompts:
        return note("No sample was written.")
    content = note(f"The prompt is bold. Temperature 0 takes the likeliest token always.{sampling}")
    if len(models) == 1:
        return content + _by_temperature(models[0], prompts)
    return content + "".join(_side_by_side(prompt, models) for prompt in prompts)


def _by_temperature(model: Measured, prompts: Sequence[str]) -> str:
    """A table with a row for each prompt and a column for each temperature."""
    temperatures = _temperatures(_samples(model))
    return table(
        [_named(temperature) for temperature in temperatures],
        [[_written(model, prompt, temperature) for temperature in temperatures] for prompt in prompts],
    )


def _side_by_side(prompt: str, models: Sequence[Measured]) -> str:
    """A table of the texts after a prompt, with a row for each temperature and a column for each model."""
    found = [sample for model in models for sample in _samples(model) if sample["prompt"] == prompt]
    rows = [
        [_named(temperature), *(_written(model, prompt, temperature) for model in models)]
        for temperature in _temperatures(found)
    ]
    return table(["", *(model.name for model in models)], rows)


def _temperatures(samples: Sequence[Json]) -> list[float | None]:
    return sorted(
        {sample.get("temperature") for sample in samples}, key=lambda value: -1.0 if value is None else float(value)
    )


def _named(temperature: float | None) -> str:
    return "temperature unknown" if temperature is None else f"temperature {temperature:g}"


def _samples(model: Measured) -> list[Json]:
    return [
        sample for sample in model.samples if isinstance(sample, dict) and {"prompt", "completion"} <= sample.keys()
    ]


def _written(model: Measured, prompt: str, temperature: float | None) -> Markup | str:
    for sample in _samples(model):
        if sample["prompt"] == prompt and sample.get("temperature") == temperature:
            text = sample["completion"]
            cut = text[:_SAMPLE_CHARACTERS] + ("…" if len(text) > _SAMPLE_CHARACTERS else "")
            ended = "" if cut.strip() else "<em>nothing more</em>"
            return Markup(f"<q><b>{escape_text(prompt)}</b>{escape_text(cut)}</q>{ended}")
    return Markup("<em>not sampled</em>")
