"""What a run has to tell the tracking server: written down first, delivered in the background, kept until it has arrived.

Training never waits for a server. Every event is a line of `spool/<run>.jsonl`; a thread sends the lines in
batches and notes in `spool/<run>.state` how far it came. If the server is gone, the lines stay and the next run (or
`gpt sync`) delivers them. A line carries its own time, so that one sent twice is one point, not two.
"""

import errno
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.files import write_json
from gpt.secrets import redact, redact_values

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 500  # MLflow takes at most 1000 metrics a request
_RETRY_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Journal:
    """The events of one run, appended by the trainer and delivered by a thread.

    `run` names the run in the spool; an existing one is continued. Events are dictionaries with a `kind`:
    start, params, dataset, tags, metrics, text, end.
    """

    def __init__(self, spool: Path, run: str) -> None:
        spool.mkdir(parents=True, exist_ok=True)
        self.run = run
        self._path, self._state_path = spool / f"{run}.jsonl", spool / f"{run}.state"
        _drop_torn_line(self._path)
        self._file = self._path.open("ab", buffering=0)
        self._held: list[bytes] = []  # not written yet, for want of room
        self._is_full = False
        self._logged = {event["group"]: event["step"] for event in _events(self._path, 0) if event["kind"] == "metrics"}
        self._wake, self._closing, self._failing = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._deliver_until_closed, name="journal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_new(self) -> bool:
        return self._file.tell() == 0

    def append(self, kind: str, **values: Any) -> None:
        """Write an event down; cheap, and fails neither because of a server nor of a full disk: then it is held for now."""
        event = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **redact_values(values)}
        self._held.append(json.dumps(event).encode() + b"\n")
        self._write_held()
        self._wake.set()

    def _write_held(self) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while self._held:
                if self._file.write(self._held[0]) < len(self._held[0]):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                end += len(self._held.pop(0))
        except OSError as error:
            os.ftruncate(self._file.fileno(), end)  # no half line
            if not self._is_full:
                logger.warning(
                    "%s: %s; training goes on, events are held until there is room", self._path, error.strerror
                )
        self._is_full = bool(self._held)

    def append_metrics(self, group: str, step: int, values: dict[str, float]) -> None:
        """Write metrics of a step down, unless a run that was resumed has already told this step."""
        if step > self._logged.get(group, -1):
            self._logged[group] = step
            self.append("metrics", group=group, step=step, values=values)

    def close(self, timeout_seconds: float) -> bool:
        """Wait for what is left to arrive; return whether all did. The spool is removed once a finished run has arrived."""
        self._closing.set()
        self._wake.set()
        self._write_held()
        self._thread.join(timeout_seconds)
        self._file.close()
        if self._held:
            logger.warning("%s: %d events could not be written, and are lost", self._path, len(self._held))
        delivered = not self._held and not self._thread.is_alive() and _is_delivered(self._path)
        if delivered:
            _remove_if_finished(self._path)
        return delivered

    def _deliver_until_closed(self) -> None:
        looked_back = False
        while True:
            closing = self._closing.is_set()
            self._wake.clear()
            try:
                deliver(self._path)
                self._failing.clear()
                if not looked_back:
                    deliver_left_behind(self._path.parent, skip=self.run)
                    looked_back = True
                if closing:
                    return
            except Exception as error:  # a server can fail in any way, and none may stop training
                if not self._failing.is_set():
                    logger.warning(
                        "tracking server: %s; training goes on, metrics are kept in %s", _brief(error), self._path
                    )
                self._failing.set()
                if closing:
                    return
                self._closing.wait(_RETRY_SECONDS)
                continue
            self._wake.wait(1.0)
            self._closing.wait(1.0)  # gather a second of events into one request


def deliver(path: Path) -> None:
    """Send the events of a journal that were not sent yet; raise whatever the server's client raises."""
    from gpt.tracking.store import client as connect

    state_path = path.with_suffix(".state")
    state = _read_state(state_path)
    client = None
    batch: list[dict[str, Any]] = []

    def send() -> None:
        nonlocal client
        client = client or connect()
        state["run_id"] = _send(client, batch, state["run_id"])
        state["offset"] = batch[-1]["offset"]
        batch.clear()
        write_json(state_path, state)

    for event in _events(path, state["offset"]):
        # Metrics go together; whatever else happens keeps its place in the order.
        if batch and (event["kind"] != "metrics" or batch[-1]["kind"] != "metrics" or len(batch) >= _BATCH):
            send()
        batch.append(event)
    if batch:
        send()


def deliver_left_behind(spool: Path, skip: str | None = None) -> int:
    """Deliver the journals of runs that ended before the server had everything; return how many are complete now.

    Stops with a warning at the first that cannot be delivered.
    """
    delivered = 0
    for path in sorted(spool.glob("*.jsonl")):
        if path.stem == skip or _is_delivered(path):
            continue
        try:
            deliver(path)
        except Exception as error:  # as above
            logger.warning("tracking server: %s; %s waits for the next time", _brief(error), path)
            break
        _remove_if_finished(path)
        delivered += 1
    return delivered


def _send(client: "MlflowClient", batch: list[dict[str, Any]], run_id: str | None) -> str:
    """Send one event, or many of metrics, and return the run's id."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    from gpt.tracking.store import experiment_id, take_over_registered_run

    event = batch[0]
    if event["kind"] == "start":
        # Killed between creating the run and noting its id: find it by our own name instead of making a second.
        experiment = experiment_id(client, event["experiment"])
        known = client.search_runs([experiment], f"tags.`gpt.run` = '{event['run']}'", max_results=1)
        if known:
            return known[0].info.run_id
        if made := take_over_registered_run(client, experiment, event.get("fingerprint", ""), event["run"]):
            return made
        tags = {"gpt.run": event["run"]}
        return client.create_run(experiment, start_time=event["time_ms"], tags=tags, run_name=event["run"]).info.run_id
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
    return run_id


def _events(path: Path, offset: int) -> Iterator[dict[str, Any]]:
    """Yield the events after a byte offset, each with the offset at its end; a torn last line is left for later."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield json.loads(line) | {"offset": offset}


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process wrote of a line, so that the next line begins where a line begins."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)


def _read_state(path: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(path.read_text(encoding="utf-8"))
    return {"run_id": None, "offset": 0}


def _is_delivered(path: Path) -> bool:
    return _read_state(path.with_suffix(".state"))["offset"] >= path.stat().st_size


def _remove_if_finished(path: Path) -> None:
    """A stopped run's journal stays: when training goes on, it goes on there. A finished one has no more to tell."""
    last = next(iter(deque(_events(path, 0), maxlen=1)), None)
    if last and last["kind"] == "end" and last["status"] == "FINISHED":
        path.unlink()
        path.with_suffix(".state").unlink()


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {redact(' '.join(str(error).split()))[:200]}"
