"""reports/comparison/: a candidate beside the champion, as `gpt register` has judged it, as a page and as JSON."""

import json
from dataclasses import asdict
from pathlib import Path

from gpt.evaluation.comparison import Difference
from gpt.files import atomic_folder
from gpt.registry.gate.scores import Comparison
from gpt.reports.page import render, table
from gpt.secrets.hiding import redact_values


def draw_comparison(comparison: Comparison, folder: Path) -> None:
    """Write index.html and comparison.json: every figure of both models with its interval, and the gate's reasons."""
    head = f"{comparison.candidate.name}: version {comparison.candidate.version} beside {comparison.champion.version}"
    rows = [[metric, *_cells(found)] for metric, found in comparison.differences.items()]
    columns = ["measure", "candidate", "champion", "gain", "low", "high", "of", "pieces"]
    reasons = [["passed" if one.passed else "failed", one.check, one.text] for one in comparison.reasons]
    sections = {"Figures": table(columns, rows), "The gate": table(["", "check", "what it saw"], reasons)}
    summary = (
        "Both models on the same texts. A gain is positive where the candidate is better; low to high is its interval."
    )
    value = {
        "name": comparison.candidate.name,
        "candidate": int(comparison.candidate.version),
        "champion": int(comparison.champion.version),
        "differences": {metric: found.to_dict() for metric, found in comparison.differences.items()},
        "reasons": [asdict(one) for one in comparison.reasons],
    }
    with atomic_folder(folder) as partial:
        (partial / "index.html").write_text(render(head, f"<p>{summary}</p>\n", sections), encoding="utf-8")
        text = json.dumps(redact_values(value), indent=2, ensure_ascii=False)
        (partial / "comparison.json").write_text(text + "\n", encoding="utf-8")


def _cells(found: Difference) -> list[str | float]:
    interval = ["none", "none"] if found.to_dict()["low"] is None else [f"{found.low:+.4f}", f"{found.high:+.4f}"]
    figures = [f"{found.candidate:.4f}", f"{found.champion:.4f}", f"{found.mean:+.4f}"]
    return [*figures, *interval, f"{found.blocks} {found.resampled}", found.pieces]
