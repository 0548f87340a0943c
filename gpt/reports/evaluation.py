"""reports/evaluate: a model's figures, loss curves and samples, for a person to read.

It is drawn from what other stages wrote, and computes nothing: a change of its form costs no evaluation.
"""

import csv
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import atomic_folder, read_json
from gpt.params.evaluation import Evaluate
from gpt.params.project import Params

_SPLITS = ("validation", "test")
_AGAIN = "run `gpt evaluate` again"


def write_report(params: Params) -> None:
    """Write evaluate.md and training.png to reports/evaluate.

    Raises `UserError` for what is missing or not as its stage wrote it.
    """
    metrics = read_json(paths.EVALUATE_METRICS, _AGAIN, (*_SPLITS, "parameters"))
    samples = read_json(paths.SAMPLES, _AGAIN)
    config = read_json(paths.BASE_MODEL / "config.json", "run `gpt pretrain` again")
    with atomic_folder(paths.REPORTS) as folder:
        draw_training(paths.TRAINING_PLOT, paths.VALIDATION_PLOT, folder / "training.png")
        try:
            text = _describe(params.evaluate, config, metrics, samples)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{paths.EVALUATE_METRICS}, {paths.SAMPLES}: not as `gpt evaluate` wrote them ({error!r}); {_AGAIN}"
            ) from None
        (folder / "evaluate.md").write_text(text, encoding="utf-8")


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


def _describe(
    settings: Evaluate, config: dict[str, Any], metrics: dict[str, Any], samples: list[dict[str, str]]
) -> str:
    lines = [
        "# Evaluation",
        "",
        f"{metrics['parameters']:,} parameters: {config['n_layer']} layers, {config['n_embd']} wide, {config['n_head']} heads,"
        f" context {config['block_size']} tokens, vocabulary {config['vocab_size']}.",
        "",
        "| split | documents | bytes | tokens | loss (nats/token) | perplexity | bits per byte |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for split in _SPLITS:
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
        f"Temperature {settings.temperature}, top-k {settings.top_k}; the prompt comes first, then `│`.",
        "",
    ]
    for sample in samples:
        lines += ["```text", f"{sample['prompt']}│{sample['completion']}", "```", ""]
    return "\n".join(lines)
