"""Run benchmarks and write their tables into benchmarks/RESULTS.md: `python -m benchmarks [NAME …] [--text FILE]`.

A table that is not measured again stays as it is. Ratios within a table carry over to other machines, seconds do not.
"""

import argparse
import platform
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from benchmarks import (
    comparison,
    corpus,
    data,
    generation,
    lm,
    overhead,
    quality,
    recovery,
    scale,
    serving,
    sweep,
    training,
)
from gpt.processes.machine import describe_hardware

_RESULTS = Path(__file__).parent / "RESULTS.md"
_TITLES = {
    "training": "Training throughput in tokens per second, beside transformers and litgpt",
    "generation": "Generation in tokens per second, beside transformers",
    "serving": "Answers to many clients at once, beside `transformers serve`",
    "lm": "Benchmarks scored, beside lm-eval's model of Hugging Face",
    "quality": "Time to quality: characters of one text, validation loss in nats per character",
    "recovery": "What checkpoints cost, and how soon a run goes on",
    "data": "The data pipeline: time, memory, and tokenizing beside its peers",
    "corpus": "Duplicates and leaks in real text, beside counts of all pairs",
    "scale": "What is read, opened and held as data grow",
    "comparison": "How far to trust a verdict: simulated comparisons of two models",
    "sweep": "What pruning a sweep saves, and whether it loses the best trial",
    "overhead": "What orchestration costs, beside the bare tools",
}
_PACKAGES = {
    "training": ("torch", "accelerate", "transformers", "litgpt"),
    "generation": ("torch", "transformers"),
    "serving": ("torch", "transformers", "openai", "uvicorn"),
    "lm": ("torch", "lm-eval", "transformers"),
    "quality": ("torch", "accelerate"),
    "recovery": ("torch", "safetensors"),
    "data": ("datatrove", "tiktoken", "datasets", "rustbpe", "tokenizers", "ray"),
    "corpus": ("datatrove", "numpy"),
    "scale": ("numpy", "scipy"),
    "comparison": ("numpy", "scipy"),
    "sweep": ("torch", "optuna", "dvc"),
    "overhead": ("torch", "dvc", "prefect", "mlflow"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", choices=[*_TITLES, []], metavar="NAME", help=", ".join(_TITLES))
    parser.add_argument("--text", type=Path, help="for quality: a text of about a million characters")
    options = parser.parse_args()
    names = options.names or [
        name
        for name in (
            "training",
            "generation",
            "serving",
            "lm",
            "quality",
            "recovery",
            "data",
            "corpus",
            "scale",
            "comparison",
        )
        if name != "quality" or options.text
    ]
    if "quality" in names and not options.text:
        parser.error("quality needs --text FILE")
    if options.text and not options.text.is_file():
        parser.error(f"--text {options.text}: not a file; name a text of about a million characters")
    try:
        headings = {name: _heading(name) for name in names}
    except metadata.PackageNotFoundError as error:
        parser.error(f"{error.name} is not installed; `make bench` installs the peers")
    measures: dict[str, Callable[[], list[str]]] = {
        "training": training.measure,
        "generation": generation.measure,
        "serving": serving.measure,
        "lm": lm.measure,
        "quality": lambda: quality.measure(options.text),
        "recovery": recovery.measure,
        "data": data.measure,
        "corpus": corpus.measure,
        "scale": scale.measure,
        "comparison": comparison.measure,
        "sweep": sweep.measure,
        "overhead": overhead.measure,
    }
    sections = _read()
    for name in names:
        sections[name] = "\n".join([headings[name], "", *measures[name]()])
        _write(sections)
    return 0


def _heading(name: str) -> str:
    """Say on what a table was measured, and with which command."""
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in _PACKAGES[name])
    command = f"python -m benchmarks {name}" + (" --text FILE" if name == "quality" else "")
    return f"{describe_hardware()}, Python {platform.python_version()}, {versions}. `{command}`."


def _read() -> dict[str, str]:
    """Return the sections of RESULTS.md by name."""
    text = _RESULTS.read_text(encoding="utf-8") if _RESULTS.exists() else ""
    names = {title: name for name, title in _TITLES.items()}
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {names[title]: body.strip() for title, body in pairs if title in names}


def _write(sections: dict[str, str]) -> None:
    parts = [
        "# Results",
        "Ratios carry over to other machines, seconds do not. What did not work is in [NOTES.md](NOTES.md).",
    ]
    parts += [f"## {_TITLES[name]}\n\n{sections[name]}" for name in _TITLES if name in sections]
    _RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"{_RESULTS}: written")


if __name__ == "__main__":
    sys.exit(main())
