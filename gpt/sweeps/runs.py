"""A sweep in MLflow: a run that stands for it, and the trials' runs as its children.

A trial's run is the one that its training made, by the tags that the environment gives it. What MLflow does not get because it is
away is told by the next `gpt sweep run`; nothing waits for it, and no trial fails of it.
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import lenient_json
from gpt.params.project import PARAMS_FILE, Params, load_params
from gpt.sweeps.records import COMPLETE, FAILED, PRUNED, About, Records, Trial, best
from gpt.sweeps.settings import Sweep
from gpt.sweeps.watch import find_journal
from gpt.tracking import store
from gpt.tracking.delivery import deliver_left_behind
from gpt.tracking.pages.names import EXPERIMENT_TAG
from gpt.tracking.pages.source import PARENT_TAG, TRIAL_TAG
from gpt.tracking.tracker import flat_params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SWEEP_TAG, _ID_TAG, _STATE_TAG, _REASON_TAG, _VALUE_TAG, _SAME_TAG = (
    f"gpt.sweep{name}" for name in ("", ".id", ".state", ".reason", ".value", ".restored_from")
)
_TRAINED_TAG = "gpt.run"
"Of a run that a training has made."
_STATUS = {COMPLETE: "FINISHED", PRUNED: "KILLED", FAILED: "FAILED"}

logger = logging.getLogger(__name__)


def key(about: About, trial: Trial) -> str:
    """Return what a trial's run is known by: the name of a sweep may be used again."""
    return f"{about.id}/{trial.number:03d}"


def begin(records: Records, about: About, sweep: Sweep) -> str:
    """Return the id of the run that stands for the sweep, made if there is none; "" if MLflow is away, which is a warning."""
    try:
        client = store.client()
        deliver_left_behind(paths.SPOOL)  # runs of trials that ended while it was away
        with store.store_errors():
            return _parent(client, records, about, sweep)
    except UserError as error:
        logger.warning("tracking server: %s; the sweep goes on, and its next run tells MLflow of it", error)
        return ""


def end(records: Records, about: About, sweep: Sweep, parent: str, page: Path) -> None:
    """Tell the sweep's run what came of it so far."""
    trials = records.trials()
    found = best(trials, sweep.direction)
    try:
        client = store.client()
        with store.store_errors():
            values = {f"trials/{state}": sum(trial.state == state for trial in trials) for state in _STATUS}
            for name, value in values.items():
                client.log_metric(parent, name, value)
            if found and found.value is not None:
                client.log_metric(parent, f"best/{sweep.metric}", found.value)
                client.set_tag(parent, "gpt.sweep.best", records.experiment(found.number))
            if page.exists():
                client.log_artifact(parent, str(page))
            client.set_terminated(parent, "FINISHED")
    except UserError as error:
        logger.warning("tracking server: %s; `gpt sweep run %s` tells it later", error, records.name)


def tell_end(project: Path, records: Records, about: About, trial: Trial, parent: str) -> str:
    """Tell MLflow how a trial has ended; return the id of its run, "" if MLflow is away or has not got its curves yet."""
    if not parent:
        return ""
    try:
        client = store.client()
        with store.store_errors():
            run = _child(client, project, records, about, trial)
            if run is None:
                return ""
            tags = {PARENT_TAG: parent, _SWEEP_TAG: records.name, _STATE_TAG: trial.state}
            tags |= {_REASON_TAG: trial.reason} if trial.reason else {}
            tags |= {} if trial.value is None else {_VALUE_TAG: repr(trial.value)}
            for name, value in tags.items():
                client.set_tag(run.info.run_id, name, value)
            if run.info.status != _STATUS[trial.state]:  # of a trainer that was killed it is RUNNING for ever
                client.set_terminated(run.info.run_id, _STATUS[trial.state])
            return run.info.run_id
    except UserError as error:
        logger.warning("tracking server: %s; `gpt sweep run %s` tells it later", error, records.name)
        return ""


def _parent(client: "MlflowClient", records: Records, about: About, sweep: Sweep) -> str:
    experiment = store.experiment_id(client, _params(Path.cwd()).base.name)
    known = client.search_runs([experiment], f"tags.`{_ID_TAG}` = '{about.id}'", max_results=1)
    if known:
        client.update_run(known[0].info.run_id, status="RUNNING")
        return known[0].info.run_id
    tags = {_ID_TAG: about.id, _SWEEP_TAG: records.name, "mlflow.source.git.commit": about.commit}
    run = client.create_run(experiment, tags=tags, run_name=f"sweep {records.name}")
    values: dict[str, Any] = sweep.model_dump(mode="json", exclude_none=True)
    for name in ("method", "seed", "metric", "direction"):
        client.log_param(run.info.run_id, f"sweep.{name}", values[name])
    for name in values["parameters"]:
        client.log_param(run.info.run_id, f"sweep.parameters.{name}", json.dumps(values["parameters"][name]))
    return run.info.run_id


def _child(client: "MlflowClient", project: Path, records: Records, about: About, trial: Trial) -> "Run | None":
    """Return a trial's run: that of its training, or one for a trial that trained nothing; None if it is on its way."""
    params = _params(project)
    experiment = store.experiment_id(client, params.base.name)
    mine = f"tags.`{TRIAL_TAG}` = '{key(about, trial)}'"
    known = client.search_runs([experiment], mine)
    if trained := [run for run in known if _TRAINED_TAG in run.data.tags]:
        for run in known:
            if _TRAINED_TAG not in run.data.tags:  # it stood for a start that failed before it trained
                client.delete_run(run.info.run_id)
        return trained[0]
    if known:
        return known[0]
    if find_journal(paths.SPOOL, key(about, trial)):
        logger.warning("%s: its run waits in %s; `gpt sync` delivers it", records.experiment(trial.number), paths.SPOOL)
        return None
    tags = {TRIAL_TAG: key(about, trial), EXPERIMENT_TAG: records.experiment(trial.number)}
    if trained := _restored_from(client, project, params.base.name):
        tags[_SAME_TAG] = trained.info.run_id
    run = client.create_run(experiment, tags=tags, run_name=records.experiment(trial.number))
    for name, value in flat_params(params).items():
        client.log_param(run.info.run_id, name, value)
    for step, value in trial.curve:
        client.log_metric(run.info.run_id, "validation/bits_per_byte", value, step=step)
    return run


def _restored_from(client: "MlflowClient", project: Path, experiment: str) -> "Run | None":
    """Return the run that trained a model which DVC's cache brought back."""
    path = project / paths.RUN
    fingerprint = lenient_json(path.read_bytes()).get("fingerprint") if path.exists() else None
    return store.find_training_run(client, experiment, fingerprint) if fingerprint else None


def _params(project: Path) -> Params:
    return load_params(project / PARAMS_FILE)
