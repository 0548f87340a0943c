"""A model card (README.md of an exported model) from what is known of the model, in the form that the Hugging Face Hub reads."""

import io
import re
from typing import Any

from ruamel.yaml import YAML

from gpt.registry.overview.facts import Facts
from gpt.registry.overview.figures import limits, size_sentence, source_rows
from gpt.tracking.pages.figures import MAIN_FIGURES, SPLITS
from gpt.tracking.pages.markdown import benchmark_notes, benchmark_rows, fenced, figure_rows, finetuned_rows, table

# Licences that the Hub knows by a name of its own; of sources under any other, or under several, the card names each.
_KNOWN_LICENCES = {
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "odc-by", "unlicense", "gpl-3.0",
}  # fmt: skip
_LOAD = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
model = AutoModelForCausalLM.from_pretrained(".")
print(tokenizer.decode(model.generate(**tokenizer({prompt!r}, return_tensors="pt"))[0], skip_special_tokens=True))"""


def write_card(facts: Facts) -> str:
    """Return the card: front matter, and what the model is, how good, from what, how to load it, a sample, its limits."""
    front = io.StringIO()
    YAML(typ="safe", pure=True).dump(_front_matter(facts), front)
    sample = facts.samples[0] if facts.samples else None
    parts = [
        f"---\n{front.getvalue()}---",
        f"# {facts.name}",
        size_sentence(facts),
        "## How good it is",
        table(*figure_rows(facts.evaluation))
        or table(*finetuned_rows(facts.evaluation))
        or "It was not measured: no evaluation of these weights is at hand.",
        table(*benchmark_rows(facts.evaluation)),
        benchmark_notes(facts.evaluation),
        "## What it learned from",
        table(*source_rows(facts)) or "Its sources are not known.",
        f"Passages shared with benchmarks and held-out documents: {facts.contamination}."
        if facts.contamination
        else "",
        "## How to load it",
        fenced(_LOAD.format(prompt=sample[0] if sample else "Once"), "python"),
        "The tokenizer begins every text with `<|endoftext|>`, as documents did in training. The default continues with the"
        f" likeliest tokens up to the end of the context; `generate(..., do_sample=True{_drawing(facts)})` draws.",
        f"## A sample\n\nThe prompt is the first line's beginning.\n\n{fenced(''.join(sample), 'text')}"
        if sample
        else "",
        "## Limits",
        limits(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _drawing(facts: Facts) -> str:
    """Return the arguments of transformers' `generate` that draw as the sample was drawn, as far as they are known."""
    evaluate = facts.params.get("evaluate")
    settings = evaluate if isinstance(evaluate, dict) else {}
    known = {key: settings[key] for key in ("temperature", "top_k") if isinstance(settings.get(key), int | float)}
    # A temperature of 0 is `do_sample=False` there.
    return "".join(f", {key}={value}" for key, value in known.items() if value or key != "temperature")


def _front_matter(facts: Facts) -> dict[str, Any]:
    licences = {source["licence"].lower() for source in facts.sources}
    licence = licences.pop() if len(licences) == 1 else ""
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt", "fine-tuned" if facts.recipe else "pretrained", "text-generation"],
    }
    if licence in _KNOWN_LICENCES:
        front["license"] = licence
    else:
        front |= {"license": "other", "license_name": "of-its-sources", "license_link": "README.md"}
    if results := _results(facts):
        front |= {"metrics": sorted({metric["type"] for result in results for metric in result["metrics"]})}
        front["model-index"] = [{"name": facts.name, "results": results}]
    return front


def _results(facts: Facts) -> list[dict[str, Any]]:
    """Return the figures as the Hub's model-index has them."""
    names = ", ".join(source["name"] for source in facts.sources) or facts.name
    results = [
        _result(
            f"held-out documents of {names}",
            _slug(names),
            split,
            {key: figures[key] for key in ("bits_per_byte", "perplexity") if key in figures},
        )
        for split in SPLITS
        if (figures := facts.figures(split))
    ]
    if facts.recipe:
        figures = {key: facts.evaluation.get(key) for key in MAIN_FIGURES}
        results.append(_result(f"test examples of {names}", _slug(names), "test", figures))
    results += [
        _result(name, _slug(name), "test", {key: scores[key] for key in ("accuracy", "accuracy_norm") if key in scores})
        for name, scores in facts.benchmarks.items()
        if isinstance(scores, dict)
    ]
    return [result for result in results if result["metrics"]]


def _result(name: str, kind: str, split: str, figures: dict[str, Any]) -> dict[str, Any]:
    metrics = [
        {"type": key, "name": key.replace("_", " "), "value": value}
        for key, value in figures.items()
        if isinstance(value, int | float)
    ]
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": name, "type": kind, "split": split},
        "metrics": metrics,
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "texts"
