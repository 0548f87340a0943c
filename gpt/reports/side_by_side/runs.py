"""What MLflow knows of a model: of a run, by its id, its name or the experiment of DVC that it was, and of a registered version."""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt import paths
from gpt.registry.record import read_record
from gpt.registry.versions import find_version
from gpt.reports.model_page.measured import Columns, of_files
from gpt.reports.model_page.versions import of_version
from gpt.reports.side_by_side.subject import Subject, settings_of, settings_of_run
from gpt.tracking.evaluation import FOLDER
from gpt.tracking.pages.figures import name_figures
from gpt.tracking.pages.names import EXPERIMENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_ID_DIGITS, _LEAST_DIGITS = 8, 7
"Shown of a run's id, and asked for at least."
_MOST_RUNS = 1000
_THROUGHPUT = "system/tokens_per_second"
# Of MLflow's charts those that are columns of plots/training.csv and plots/validation.csv.
_TRAINING = {"train/loss": "train_loss", "train/learning_rate": "learning_rate", "train/gradient_norm": "gradient_norm"}
_VALIDATION = {"validation/loss": "validation_loss", "validation/bits_per_byte": "validation_bits_per_byte"}

Json = dict[str, Any]


def find_run(client: "MlflowClient", name: str) -> "Run | None":
    """Return a run by its id (`runs:/ID`, or its digits, the first seven at least), by its name, or as this experiment of DVC.

    Of several of one name, or of one experiment, it is the newest.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(name.removeprefix("runs:/"))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    runs = all_runs(client)
    named = [run for run in runs if run.info.run_name == name]
    digits = [run for run in runs if len(name) >= _LEAST_DIGITS and run.info.run_id.startswith(name)]
    tried = [run for run in runs if run.data.tags.get(EXPERIMENT_TAG) == name]
    return next(iter(named or (digits if len(digits) == 1 else tried)), None)


def all_runs(client: "MlflowClient") -> "list[Run]":
    """Return the newest runs of all experiments, the newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    order = ["attributes.start_time DESC"]
    return list(client.search_runs(experiments, order_by=order, max_results=_MOST_RUNS)) if experiments else []


def of_run(client: "MlflowClient", run: "Run", name: str) -> Subject:
    """Return what is known of a run, called `name`, or by the first digits of its id: its figures are those that MLflow shows."""
    if name.removeprefix("runs:/") == run.info.run_id:
        name = run.info.run_id[:_ID_DIGITS]
    measured = of_files(
        name,
        _evaluation_files(client, run.info.run_id),
        throughput=((step, rate) for step, rate in _history(client, run, _THROUGHPUT).items()),
    )
    measured = replace(
        measured, training=_columns(client, run, _TRAINING), validation=_columns(client, run, _VALIDATION)
    )
    figures = {key: value for key, value in run.data.metrics.items() if "/" not in key}
    order = [*name_figures(measured.evaluation), *sorted(figures)]
    notes = [] if measured.samples else [f"no samples: MLflow has no {FOLDER}/{paths.SAMPLES.name} of it"]
    if run.info.status != "FINISHED":
        notes.append(f"the run is {run.info.status}")
    return Subject(
        measured,
        f"MLflow run {run.info.run_id[:_ID_DIGITS]} ({run.info.run_name})",
        {key: figures[key] for key in order if key in figures},
        settings_of_run(run.data.params),
        tuple(notes),
    )


def of_registered(client: "MlflowClient", spec: str, default_name: str) -> Subject:
    """Return what is known of a version that a URI names; raise `UserError` as `find_version` and `read_record` do."""
    version = find_version(client, spec, default_name)
    measured = replace(of_version(client, version, spec), name=spec)
    notes = () if measured.samples else ("no samples: the version keeps none",)
    params = read_record(client, version).values["params"]
    what = f"version {version.version} of {version.name}"
    return Subject(measured, what, name_figures(measured.evaluation), settings_of(params), notes)


def _evaluation_files(client: "MlflowClient", run_id: str) -> dict[str, bytes]:
    """Return what `gpt evaluate` has added to a run, by name."""
    wanted = {f"{FOLDER}/{path.name}" for path in (paths.EVALUATION, paths.SAMPLES)}
    there = [entry.path for entry in client.list_artifacts(run_id, FOLDER) if entry.path in wanted]
    with tempfile.TemporaryDirectory() as folder:
        found = (Path(client.download_artifacts(run_id, path, folder)) for path in there)
        return {path.name: path.read_bytes() for path in found}


def _columns(client: "MlflowClient", run: "Run", charts: dict[str, str]) -> Columns:
    """Return curves of a run as columns, of the steps at which it has all of them that it has at all."""
    curves = {column: points for chart, column in charts.items() if (points := _history(client, run, chart))}
    if not curves:
        return {}
    steps = sorted(set.intersection(*(set(points) for points in curves.values())))
    return {"step": _floats(steps)} | {column: [points[step] for step in steps] for column, points in curves.items()}


def _history(client: "MlflowClient", run: "Run", chart: str) -> dict[int, float]:
    """Return a metric by step, the last value of each; nothing if the run has no such metric."""
    if chart not in run.data.metrics:
        return {}
    points = client.get_metric_history(run.info.run_id, chart)
    by_time = sorted(points, key=lambda point: (point.step, point.timestamp))
    return {point.step: point.value for point in by_time}


def _floats(values: Iterable[int]) -> list[float]:
    return [float(value) for value in values]
