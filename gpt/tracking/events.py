"""The events of a run as MLflow takes them, and what its answers mean."""

import errno
import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gpt.errors import UserError
from gpt.secrets.hiding import redact
from gpt.tracking import store
from gpt.tracking.spool import Event

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 500  # MLflow takes at most 1000 metrics a request
_REASON_CHARACTERS = 300
# What MLflow says of an event that it will not take tomorrow either. Missing rights and broken servers can be mended.
_REFUSALS = {
    "ALREADY_EXISTS", "BAD_REQUEST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "MALFORMED_REQUEST", "NOT_FOUND",
    "NOT_IMPLEMENTED", "RESOURCE_ALREADY_EXISTS", "RESOURCE_CONFLICT", "RESOURCE_DOES_NOT_EXIST",
}  # fmt: skip
_REFUSAL_STATUS = {400, 404, 405, 409, 413, 415, 422}


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
    """Send one event, or many of metrics, and return the run's id."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    event = batch[0]
    if event["kind"] == "start":
        return _start(client, event, place)
    assert run_id is not None, "a journal begins with its start"
    match event["kind"]:
        case "metrics":
            metrics = [
                Metric(key, value, one["time_ms"], one["step"]) for one in batch for key, value in one["values"].items()
            ]
            for first in range(0, len(metrics), 1000):
                client.log_batch(run_id, metrics=metrics[first : first + 1000])
        case "params":
            params = [Param(key, str(value)) for key, value in event["values"].items()]
            client.log_batch(run_id, params=params)
        case "tags":
            client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in event["values"].items()])
        case "dataset":
            # One of the same name and digest is the same: sent twice, it is there once.
            described = Dataset(event["name"], event["digest"], "dvc", event["source"], profile=event["profile"])
            tags = {"mlflow.data.context": "training", **event["tags"]}
            data = DatasetInput(described, [InputTag(key, value) for key, value in tags.items()])
            client.log_inputs(run_id, datasets=[data])
        case "text":
            client.log_text(run_id, event["text"], event["path"])
        case "resume":
            client.update_run(run_id, status="RUNNING")
        case "end":
            client.set_terminated(run_id, event["status"], end_time=event["time_ms"])
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
    if isinstance(error, OSError) and kind == "text":  # its file cannot be written; what goes into the database can
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


def _short(text: str) -> str:
    return redact(" ".join(text.split()))[:_REASON_CHARACTERS]
