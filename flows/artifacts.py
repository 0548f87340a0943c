"""What a finished run shows in Prefect's UI: the metrics, the evaluation, the loss curve, the way to its MLflow run."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.keeping import ui
from gpt import paths
from gpt.files import read_json
from gpt.registry.overview import facts
from gpt.registry.overview.figures import size_sentence
from gpt.reports.evaluation import PAGE
from gpt.secrets.hiding import redact, without_userinfo
from gpt.tracking.pages.markdown import benchmark_rows, fenced, figure_rows, table

_FIGURES = ("documents", "loss", "perplexity", "bits_per_byte")


def publish(registered: dict[str, Any]) -> None:
    """Show the metrics, the evaluation, the loss curve and the MLflow run of a version; what cannot be shown is a warning."""
    _try("metrics", _metrics)
    _try("evaluation", lambda: _evaluation(registered))
    _try("loss curve", _loss_curve)
    _try("MLflow run", lambda: _mlflow_run(registered))


def _try(what: str, show: Callable[[], object]) -> None:
    try:
        show()
    except Exception as error:  # a picture is not worth a run
        get_run_logger().warning("no artifact for the %s: %s", what, error)


def _metrics() -> None:
    metrics = read_json(paths.EVALUATION, "run `gpt evaluate`")
    table = [
        {"split": split} | {name: _rounded(metrics[split][name]) for name in _FIGURES if name in metrics[split]}
        for split in ("test", "validation")
    ]
    create_table_artifact(key="metrics", table=table, description="Held-out documents; bits per byte decide.")


def _evaluation(registered: dict[str, Any]) -> None:
    """The figures of the report's page, which the UI cannot open, and where that page lies."""
    model = facts.of_project(Path.cwd(), {}, name=registered["name"])
    sample = "".join(model.samples[0]) if model.samples else ""
    parts = (
        f"# {model.name} version {registered['version']}",
        size_sentence(model),
        table(*figure_rows(model.evaluation)),
        table(*benchmark_rows(model.evaluation)),
        f"A sample:\n\n{fenced(sample, 'text')}" if sample else "",
        f"All curves, benchmarks and samples: `{(Path.cwd() / paths.REPORTS / PAGE).as_posix()}` on the machine of the run.",
    )
    markdown = redact("\n\n".join(part for part in parts if part))
    create_markdown_artifact(
        key="evaluation", markdown=markdown, description=f"models:/{model.name}/{registered['version']}"
    )


def _loss_curve() -> None:
    # Inline, since the UI cannot reach our files. Prefect's UIs draw this; bare SVG and Mermaid they do not.
    picture = base64.b64encode((paths.REPORTS / "training.png").read_bytes()).decode()
    create_markdown_artifact(
        key="loss-curve", markdown=f"![Training and validation loss](data:image/png;base64,{picture})"
    )


def _mlflow_run(registered: dict[str, Any]) -> None:
    run_id = registered["run_id"]
    model = f"models:/{registered['name']}/{registered['version']}"
    if page := run_page(registered):
        create_link_artifact(key="mlflow-run", link=page, link_text=f"MLflow run {run_id}", description=model)
    else:
        text = f"MLflow run `{run_id}`, registered as `{model}`. To see it, run `{ui()}` in the project's folder."
        create_markdown_artifact(key="mlflow-run", markdown=text)


def run_page(registered: dict[str, Any]) -> str | None:
    """Return the address of a version's run in MLflow's UI, without credentials; None where no server has a UI."""
    parts = urlsplit(without_userinfo(registered["tracking_uri"]))
    if parts.scheme not in ("http", "https"):
        return None
    page = f"/experiments/{registered['experiment_id']}/runs/{registered['run_id']}"
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/", "", page))


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
