"""reports/evaluate/: the evaluation as a page that a person can read, with the loss curves of training."""

import csv
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.held_out import HELD_OUT
from gpt.files import atomic_folder, read_json
from gpt.params.evaluation import Evaluate
from gpt.reports.pictures import in_own_style

Json = dict[str, Any]


def write_report(settings: Evaluate) -> None:
    """Write reports/evaluate/ from what `gpt pretrain` and `gpt evaluate` wrote; raise `UserError` if it is missing or damaged."""
    metrics = read_json(paths.EVALUATE_METRICS, "run `gpt evaluate` again", (*HELD_OUT, "parameters"))
    samples = read_json(paths.SAMPLES, "run `gpt evaluate` again")
    config = read_json(paths.BASE_MODEL / "config.json", "run `gpt pretrain` again")
    with atomic_folder(paths.REPORTS) as folder:
        draw_training(paths.TRAINING_PLOT, paths.VALIDATION_PLOT, folder / "training.png")
        try:
            page = _page(settings, config, metrics, samples)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{paths.EVALUATE_METRICS}, {paths.SAMPLES}: not as `gpt evaluate` wrote them ({error!r}); run it again"
            ) from None
        (folder / "evaluate.md").write_text(page, encoding="utf-8")


@in_own_style
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


def _page(settings: Evaluate, config: Json, metrics: Json, samples: list[dict[str, str]]) -> str:
    lines = [
        "# Evaluation",
        "",
        f"{metrics['parameters']:,} parameters: {config['n_layer']} layers, {config['n_embd']} wide,"
        f" {config['n_head']} heads, context {config['block_size']} tokens, vocabulary {config['vocab_size']}.",
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
    lines += [f"Temperature {settings.temperature}, top-k {settings.top_k}; the prompt comes first, then `│`.", ""]
    for sample in samples:
        lines += ["```text", f"{sample['prompt']}│{sample['completion']}", "```", ""]
    return "\n".join(lines)
