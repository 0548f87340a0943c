"""What is added to a training's run in MLflow after it has ended: figures of its model, its description, the report.

It goes the way of everything that is told: written down in the spool first, sent within a minute, kept and delivered later where
that fails. It fails no command. Which run it is follows from models/run.json; told twice, it is there once.
"""

import base64
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json
from gpt.locks import holder, try_lock
from gpt.params.project import Params
from gpt.tracking.delivery import Blocked, Delivery, Homeless, deliver_left_behind, remove_if_finished
from gpt.tracking.events import brief
from gpt.tracking.journal import Journal
from gpt.tracking.pages.description import describe_result
from gpt.tracking.pages.figures import name_all_items, name_figures, name_finetuned
from gpt.tracking.spool import lock_path, read_event, remove
from gpt.tracking.store import database_file, tracking_uri

FOLDER, COMPARISON = "evaluation", "comparison"
"Of artifacts of a run."
_SECONDS = 60.0

Event = dict[str, Any]

logger = logging.getLogger(__name__)


def log_evaluation(params: Params, evaluation: Mapping[str, Any]) -> None:
    """Add what `gpt evaluate` has measured and written to the run that made models/base: figures, description, samples."""
    samples = read_json(paths.SAMPLES, "run `gpt evaluate` again")
    events = [
        {"kind": "figures", "values": name_figures(evaluation)},
        {"kind": "note", "parts": describe_result(params, evaluation, samples)},
        _text(f"{FOLDER}/{paths.EVALUATION.name}", json.dumps(evaluation, indent=2)),
        _text(f"{FOLDER}/{paths.SAMPLES.name}", json.dumps(samples, indent=2, ensure_ascii=False)),
    ]
    _add(events, params.base.name)


def log_all_items(params: Params, answers: Mapping[str, Any]) -> None:
    """Add what benchmarks scored on all their items, under names that say so."""
    events = [
        {"kind": "figures", "values": name_all_items(answers)},
        _text(f"{FOLDER}/all_items.json", json.dumps(answers, indent=2)),
    ]
    _add(events, params.base.name)


def log_finetuned(experiment: str, run: Path, evaluation: Mapping[str, Any], parts: Sequence[str]) -> None:
    """Add what `gpt finetune evaluate` has measured to the run that `run`, a recipe's run.json, names; `parts` describe it."""
    events = [
        {"kind": "figures", "values": name_finetuned(evaluation)},
        {"kind": "note", "parts": list(parts)},
        _text(f"{FOLDER}/evaluation.json", json.dumps(evaluation, indent=2, ensure_ascii=False)),
    ]
    _add(events, experiment, run)


def log_page(experiment: str, run: Path, page: Path) -> None:
    """Add a recipe's report to that run."""
    _add([_text(f"{FOLDER}/{page.name}", page.read_text(encoding="utf-8"))], experiment, run)


def log_report(params: Params) -> None:
    """Add the files of reports/evaluate to the run that made models/base."""
    _add(list(_files(paths.REPORTS, FOLDER)), params.base.name)


def log_comparison(params: Params, version: int) -> None:
    """Add the page of a registered version, beside the champion of then, to the run that made it."""
    _add(list(_files(paths.COMPARISON, f"{COMPARISON}/version_{version}")), params.base.name)


def _files(folder: Path, place: str) -> Iterator[Event]:
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        content, name = path.read_bytes(), f"{place}/{path.relative_to(folder).as_posix()}"
        try:
            yield _text(name, content.decode())
        except UnicodeDecodeError:  # a picture
            yield {"kind": "file", "path": name, "base64": base64.b64encode(content).decode()}


def _text(path: str, text: str) -> Event:
    return {"kind": "text", "path": path, "text": text}


def _add(events: Sequence[Event], experiment: str, run: Path = paths.RUN) -> None:
    """Add events to the run of an experiment that `run` names; say on one line what became of them."""
    try:
        fingerprint = str(read_json(run, "", ("fingerprint",))["fingerprint"])
    except UserError:
        print(f"MLflow: not told, as no {run} says which run made the model")
        return
    spool = paths.kept(paths.SPOOL)
    if not _is_waited_for(spool, fingerprint) and _has_no_store():
        print("MLflow: not told, as no run has been recorded here")
        return
    try:
        journal = _write(spool, experiment, fingerprint, events)
    except OSError as error:
        logger.warning("%s: %s; MLflow is not told", spool, error.strerror or error)
        return
    said: list[str] = []
    sender = threading.Thread(target=lambda: said.append(_send(spool, journal, fingerprint)), name=FOLDER, daemon=True)
    sender.start()
    sender.join(_SECONDS)
    if not said:
        logger.warning("the tracking server is slow; %s waits for `gpt sync` or the next run", journal)
    elif said[0]:
        print(said[0], flush=True)


def _write(spool: Path, experiment: str, fingerprint: str, events: Sequence[Event]) -> Path:
    """Write events down after those that wait for the same run, and return their journal. Sorted, it comes after that run's own."""
    journal = Journal(spool, f"{FOLDER}-{fingerprint}")
    if journal.is_new:
        journal.append("find", experiment=experiment, fingerprint=fingerprint)
    for event in events:
        journal.append(**event)
    journal.append("done")
    journal.close(0)
    return spool / f"{journal.run}.jsonl"


def _send(spool: Path, path: Path, fingerprint: str) -> str:
    """Send what was written down; return what a person may want to know of it. It raises nothing."""
    try:
        deliver_left_behind(spool, skip=path.stem)  # the run itself may wait there
        lock = try_lock(lock_path(path))
        if lock is None:
            return f"MLflow: delivered by {holder(lock_path(path))}"
        with lock:
            return _send_alone(spool, path, fingerprint)
    except (Blocked, UserError) as error:
        logger.warning("tracking server: %s; %s waits for `gpt sync`", error, path)
    except Exception as error:  # a server can fail in any way, and the figures are in reports/ all the same
        logger.warning("tracking server: %s; %s waits for `gpt sync`", brief(error), path)
    return ""


def _send_alone(spool: Path, path: Path, fingerprint: str) -> str:
    """The same by the one that has the journal's lock; an addition to a run that nobody has is given up."""
    if not path.exists():
        lock_path(path).unlink(missing_ok=True)
        return "MLflow: another process has added it"
    delivery = Delivery(path)
    try:
        delivery.send()
    except Homeless as error:
        if _is_waited_for(spool, fingerprint):
            raise
        remove(path)
        return f"MLflow: not told, as {error}"
    if delivery.refused:
        return f"MLflow: run {delivery.run_id} has not taken all of it; `gpt sync` says why"
    remove_if_finished(path)
    return f"MLflow: added to run {delivery.run_id}"


def _is_waited_for(spool: Path, fingerprint: str) -> bool:
    """Whether the run of a training waits in the spool itself."""
    for journal in spool.glob("*.jsonl"):
        with suppress(OSError):  # delivered and removed in this moment, or not ours to read
            first = read_event(journal, 0)
            if first and first["kind"] == "start" and first.get("fingerprint") == fingerprint:
                return True
    return False


def _has_no_store() -> bool:
    """Whether the store is a database that does not exist: to look for a run there, MLflow would make one."""
    file = database_file(tracking_uri())
    return file is not None and not file.exists()
