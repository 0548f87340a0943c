"""What tasks counted: each writes a report of its own, and the stage adds them up."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_report(path: Path, value: Any) -> None:
    """Write what a task counted, as JSON."""
    path.write_text(json.dumps(value), encoding="utf-8")


def read_reports(folder: Path) -> list[Any]:
    """Return what the tasks counted, in their order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def add_up(reports: Iterable[Any]) -> Any:
    """Return reports of one form as one: numbers added, objects merged, lists joined; keys in order."""
    total: Any = None
    for report in reports:
        if isinstance(report, dict):
            total = {} if total is None else total
            for key, value in report.items():
                total[key] = add_up([total.get(key), value])
        elif report is not None:
            total = report if total is None else total + report
    return {key: total[key] for key in sorted(total)} if isinstance(total, dict) else total


def link_files(paths: Iterable[Path], folder: Path) -> None:
    """Put files into an output folder and leave them in the work folder, until the output is whole."""
    for path in paths:
        os.link(path, folder / path.name)
