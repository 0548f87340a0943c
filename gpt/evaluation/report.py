"""What a finished model is worth on documents it never saw: figures, samples and a report that a person can read."""

import csv
from pathlib import Path
from typing import Any

import tiktoken

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.likelihood import split_likelihood
from gpt.files import atomic_folder, sha256_file, write_json
from gpt.model.generation import Sampling, generate_texts
from gpt.model.storage import default_device, load_model
from gpt.model.transformer import GPTModel
from gpt.params.project import Params
from gpt.tokens.shards import TokenReader, verify_shards
from gpt.tokens.tokenizer import check_tokenizer

HELD_OUT = ("validation", "test")


def evaluate(params: Params) -> dict[str, Any]:
    """Measure models/base on the held-out splits; write metrics/evaluate.json and reports/evaluate/; return the metrics."""
    model, encoding = load_model(paths.BASE_MODEL, default_device())
    check_tokenizer(paths.TOKENS, paths.BASE_MODEL / "tokenizer", "run `gpt pretrain` again")
    verify_shards(paths.TOKENS, HELD_OUT)
    metrics: dict[str, Any] = {}
    for split in HELD_OUT:
        reader = TokenReader(paths.TOKENS, split)
        figures = split_likelihood(model, reader).to_dict()
        metrics[split] = figures | {"documents": reader.documents, "documents_sha256": reader.documents_sha256}
    metrics["weights_sha256"] = sha256_file(paths.BASE_MODEL / "model.safetensors")
    samples = _write_samples(params, model, encoding)
    with atomic_folder(paths.REPORTS) as folder:
        write_json(folder / "samples.json", samples)
        draw_training(paths.TRAINING_PLOT, paths.VALIDATION_PLOT, folder / "training.png")
        (folder / "evaluate.md").write_text(_report(params, model, metrics, samples), encoding="utf-8")
        write_json(paths.EVALUATE_METRICS, metrics)  # in here: if it cannot be written, the old report stays
    return metrics


def draw_training(training: Path, validation: Path, output: Path) -> None:
    """Draw the loss curves of plots/training.csv and plots/validation.csv as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*_read_curve(training, "train_loss"), "-", label="training")
    axes.plot(*_read_curve(validation, "validation_loss"), "o-", label="validation", markersize=4)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(output), metadata={"Software": None})


def _read_curve(path: Path, column: str) -> tuple[list[int], list[float]]:
    """Return the steps and the values of a column."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [int(row["step"]) for row in rows], [float(row[column]) for row in rows]
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `gpt pretrain` again") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: is not as `gpt pretrain` wrote it; run `gpt pretrain` again") from None


def _write_samples(params: Params, model: GPTModel, encoding: tiktoken.Encoding) -> list[dict[str, str]]:
    settings = params.evaluate
    sampling = Sampling(
        settings.max_new_tokens, temperature=settings.temperature, top_k=settings.top_k, seed=params.base.seed
    )
    completions = generate_texts(model, encoding, settings.prompts, sampling)
    return [
        {"prompt": prompt, "completion": completion}
        for prompt, completion in zip(settings.prompts, completions, strict=True)
    ]


def _report(params: Params, model: GPTModel, metrics: dict[str, Any], samples: list[dict[str, str]]) -> str:
    lines = [
        "# Evaluation",
        "",
        f"{model.count_parameters():,} parameters: {model.config.n_layer} layers, {model.config.n_embd} wide,"
        f" {model.config.n_head} heads, context {model.config.block_size} tokens, vocabulary {model.config.vocab_size}.",
        "",
        "| split | documents | bytes | tokens | loss (nats/token) | perplexity | bits per byte |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for split in HELD_OUT:
        row = metrics[split]
        lines.append(
            f"| {split} | {row['documents']:,} | {row['bytes']:,} | {row['tokens']:,} |"
            f" {row['loss']:.4f} | {row['perplexity']:.2f} | **{row['bits_per_byte']:.4f}** |"
        )
    lines += [
        "",
        "No document of these splits was trained on.",
        "",
        "![loss curves](training.png)",
        "",
        "## Samples",
        "",
    ]
    settings = params.evaluate
    lines += [f"Temperature {settings.temperature}, top-k {settings.top_k}; the prompt comes first, then `│`.", ""]
    for sample in samples:
        lines += ["```text", f"{sample['prompt']}│{sample['completion']}", "```", ""]
    return "\n".join(lines)
