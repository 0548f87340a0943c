"""The events of a run as MLflow takes them, and what its answers mean."""

import base64
import errno
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gpt.errors import UserError
from gpt.secrets.hiding import public_uri, redact
from gpt.tracking import store
from gpt.tracking.pages.experiment import NOTE_TAG
from gpt.tracking.pages.figures import FIGURE_STEP
from gpt.tracking.pages.markdown import below_own_words
from gpt.tracking.pages.names import name_run
from gpt.tracking.spool import BEGINNINGS, Event

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_BATCH = 500  # MLflow takes at most 1000 metrics a request
_REASON_CHARACTERS = 300
# What MLflow says of an event that it will not take tomorrow either. Missing rights and broken servers can be mended.
_REFUSALS = {
    "ALREADY_EXISTS", "BAD_REQUEST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "MALFORMED_REQUEST", "NOT_FOUND",
    "NOT_IMPLEMENTED", "RESOURCE_ALREADY_EXISTS", "RESOURCE_CONFLICT", "RESOURCE_DOES_NOT_EXIST",
}  # fmt: skip
_REFUSAL_STATUS = {400, 404, 405, 409, 413, 415, 422}


class NoRun(UserError):
    """The store has no run of a training that is to be added to."""


def batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Put metrics together; whatever else happens keeps its place in the order."""
    batch: list[Event] = []
    for event in events:
        if batch and (event["kind"] != "metrics" or batch[-1]["kind"] != "metrics" or len(batch) >= _BATCH):
            yield batch
            batch = []
        batch.append(event)
    if batch:
        yield batch


def send_events(client: "MlflowClient", batch: list[Event], run_id: str | None, place: str) -> str:
    """Send one event, or many of metrics, and return the run's id. Raises `NoRun` for an addition to a run that is not there.

    What is sent has arrived, also where MLFLOW_ENABLE_ASYNC_LOGGING is set: whoever sends notes it as delivered.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    event = batch[0]
    if event["kind"] in BEGINNINGS:
        return _start(client, event, place) if event["kind"] == "start" else _find(client, event)
    assert run_id is not None, "a journal begins with its start"
    match event["kind"]:
        case "metrics":
            metrics = [
                Metric(key, value, one["time_ms"], one["step"]) for one in batch for key, value in one["values"].items()
            ]
            _log_metrics(client, run_id, metrics)
        case "params":
            params = [Param(key, str(value)) for key, value in event["values"].items()]
            client.log_batch(run_id, params=params, synchronous=True)
        case "tags":
            tags = [RunTag(key, str(value)) for key, value in event["values"].items()]
            client.log_batch(run_id, tags=tags, synchronous=True)
        case "dataset":
            # One of the same name and digest is the same: sent twice, it is there once.
            described = Dataset(event["name"], event["digest"], "dvc", event["source"], profile=event["profile"])
            about = {"mlflow.data.context": "training", **event["tags"]}
            data = DatasetInput(described, [InputTag(key, value) for key, value in about.items()])
            client.log_inputs(run_id, datasets=[data])
        case "name":
            name_run(client, run_id)
        case "figures":
            _send_figures(client, run_id, event)
        case "note":
            before = client.get_run(run_id).data.tags.get(NOTE_TAG, "")
            client.set_tag(run_id, NOTE_TAG, below_own_words(before, event["parts"]), synchronous=True)
        case "text":
            client.log_text(run_id, event["text"], event["path"])
        case "file":
            _send_file(client, run_id, event)
        case "resume":
            client.update_run(run_id, status="RUNNING")
        case "end":
            client.set_terminated(run_id, event["status"], end_time=event["time_ms"])
        case "done":
            pass
        case kind:
            raise AssertionError(f"an event of the kind {kind}")
    return run_id


def refusal(error: Exception, kind: str) -> str | None:
    """Why the store will never take an event, None if the same may succeed later."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MlflowException):
        return _short(str(error)) if error.error_code in _REFUSALS else None
    if isinstance(error, HTTPError):
        return brief(error) if error.response is not None and error.response.status_code in _REFUSAL_STATUS else None
    if isinstance(error, OSError) and kind in (
        "text",
        "file",
    ):  # its file cannot be written; what goes into the database can
        return None if error.errno in (errno.ENOSPC, errno.EDQUOT) else brief(error)
    return None


def brief(error: Exception) -> str:
    return f"{type(error).__name__}: {_short(str(error))}"


def _start(client: "MlflowClient", event: Event, place: str) -> str:
    """Return the id of the journal's run: the one it has in this store, else that which `gpt register` made, else a new one."""
    experiment = store.experiment_id(client, event["experiment"])
    tags = {"gpt.run": event["run"]}
    # Killed between creating the run and noting its id: find it by its key instead of making a second.
    if event.get("id"):
        key = hashlib.sha256(f"{event['id']} {place}".encode()).hexdigest()[:32]
        tags["gpt.journal"] = key
        known = client.search_runs([experiment], f"tags.`gpt.journal` = '{key}'", max_results=1)
    else:  # its journal was lost, or is of the time before they had an id
        known = client.search_runs([experiment], f"tags.`gpt.run` = '{event['run']}'", max_results=1)
    if known:
        return known[0].info.run_id
    if made := store.take_over_registered_run(client, experiment, event.get("fingerprint", ""), tags):
        return made
    return client.create_run(experiment, start_time=event["time_ms"], tags=tags, run_name=event["run"]).info.run_id


def _find(client: "MlflowClient", event: Event) -> str:
    """Return the id of the run that was trained with a fingerprint."""
    if run := store.find_training_run(client, event["experiment"], event["fingerprint"]):
        return run.info.run_id
    raise NoRun(f"{public_uri(client.tracking_uri)} has no run of this training, {event['fingerprint']}")


def _send_figures(client: "MlflowClient", run_id: str, event: Event) -> None:
    """Log figures that the run does not have with these values yet: measured again, they are there once."""
    from mlflow.entities import Metric

    known = client.get_run(run_id).data.metrics
    metrics = [
        Metric(key, value, event["time_ms"], FIGURE_STEP)
        for key, value in event["values"].items()
        if known.get(key) != value
    ]
    _log_metrics(client, run_id, metrics)


def _log_metrics(client: "MlflowClient", run_id: str, metrics: "list[Metric]") -> None:
    for first in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[first : first + 1000], synchronous=True)


def _send_file(client: "MlflowClient", run_id: str, event: Event) -> None:
    path = PurePosixPath(event["path"])
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, path.name)
        local.write_bytes(base64.b64decode(event["base64"]))
        client.log_artifact(run_id, str(local), str(path.parent) if path.parent.name else None)


def _short(text: str) -> str:
    return redact(" ".join(text.split()))[:_REASON_CHARACTERS]
