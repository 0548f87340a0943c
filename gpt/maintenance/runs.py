"""Runs that MLflow calls running although their trainer is gone, and putting them right.

A trainer holds its journal and its checkpoint folder by locks of the kernel's. What it did not say is written into its journal,
as it would have said it itself: KILLED, at the time of the last thing it told. So the same run goes on there when it is resumed.
Whatever a file names another machine for may live there, and stays.
"""

import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt import locks, paths
from gpt.errors import UserError
from gpt.maintenance.leftovers import is_live
from gpt.tracking import store
from gpt.tracking.location import read_only
from gpt.tracking.spool import last_event, place_of, read_event, read_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

_UNFINISHED = ("RUNNING", "SCHEDULED")
_ENDS = ("end", "done")


@dataclass(frozen=True)
class Unfinished:
    """A run of this project that a store calls running."""

    run_id: str
    name: str
    "As the spool and checkpoints call it."
    fingerprint: str


def cut_off(spool: Path) -> Iterator[Path]:
    """Yield the journals whose trainer is gone without having told its end, of this machine."""
    for journal in sorted(spool.glob("*.jsonl")):
        begun, last = read_event(journal, 0), last_event(journal)
        if begun is None or begun["kind"] != "start" or last is None or last["kind"] in _ENDS:
            continue
        if not is_live(journal) and _is_of_this_machine(journal) and not _may_train(begun.get("fingerprint", "")):
            yield journal


def end(journal: Path) -> None:
    """Write into a journal that its run was killed; raise `UserError` if its trainer is there again."""
    from gpt.tracking.journal import Journal
    from gpt.training.checkpoints.checkpoint import single_trainer

    begun = read_event(journal, 0)
    folder = paths.kept(paths.CHECKPOINTS) / (begun or {}).get("fingerprint", "none")
    # A trainer takes this lock before it opens its journal, so none goes on while we write.
    with single_trainer(folder) if folder.is_dir() else nullcontext():
        last = last_event(journal)
        if last is None or last["kind"] in _ENDS or is_live(journal):
            return
        writer = Journal(journal.parent, journal.stem)
        writer.append("end", status="KILLED", **({"time_ms": last["time_ms"]} if "time_ms" in last else {}))
        writer.close(0.0)


def unfinished(experiments: Iterable[str]) -> list[Unfinished]:
    """Return the runs that the store calls running; it only looks. Raises `UserError` if it cannot be asked."""
    uri = store.tracking_uri()
    store.check_reachable(uri)
    file = store.database_file(uri)
    if file is not None:
        return _in_database(file, tuple(experiments)) if file.exists() else []
    client = store.client(uri)
    found = []
    with store.store_errors():
        known = [each.experiment_id for name in experiments if (each := client.get_experiment_by_name(name))]
        for status in _UNFINISHED if known else ():
            found += client.search_runs(known, f"attributes.status = '{status}'", max_results=1000)
    runs = ((run.info.run_id, run.data.tags) for run in found)
    return [Unfinished(each, tags["gpt.run"], tags.get("fingerprint", "")) for each, tags in runs if "gpt.run" in tags]


def is_dead(run: Unfinished) -> bool:
    """Whether the trainer of a run without a journal is known to be gone: its checkpoints lie here, and nobody trains there."""
    if (paths.kept(paths.SPOOL) / f"{run.name}.jsonl").exists() or _may_train(run.fingerprint):
        return False
    from gpt.training.checkpoints import checkpoint as checkpoints

    for path in reversed(checkpoints.steps(paths.kept(paths.CHECKPOINTS) / run.fingerprint)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return checkpoints.run_of(path) == run.name
    return False


def put_right(client: "MlflowClient", run: Unfinished) -> None:
    """Let the store say that a run without a journal was killed."""
    if not is_dead(run):
        raise UserError("its trainer is there again")
    with store.store_errors():
        client.set_terminated(run.run_id, "KILLED")


def _in_database(file: Path, experiments: tuple[str, ...]) -> list[Unfinished]:
    """Read a local store without MLflow, which takes seconds to import and would make tables where there are none."""
    import sqlite3

    places = ", ".join("?" * len(experiments))
    query = (
        "select r.run_uuid, name.value, coalesce(made.value, '') from runs r"
        " join experiments e on e.experiment_id = r.experiment_id"
        " join tags name on name.run_uuid = r.run_uuid and name.key = 'gpt.run'"
        " left join tags made on made.run_uuid = r.run_uuid and made.key = 'fingerprint'"
        f" where r.lifecycle_stage = 'active' and r.status in ('RUNNING', 'SCHEDULED') and e.name in ({places})"
    )
    try:
        with read_only(file) as database:
            if not database.execute("select 1 from sqlite_master where name = 'runs'").fetchone():
                return []  # empty: MLflow fills it
            return [Unfinished(*row) for row in database.execute(query, experiments)]
    except sqlite3.Error as error:
        raise UserError(f"{file}: cannot be read ({error}); `gpt doctor` says more") from None


def _is_of_this_machine(journal: Path) -> bool:
    """Whether a journal was told here, as far as it says: one that no store has seen yet says nothing."""
    place = read_state(journal).place
    return place in ("", place_of(journal))


def _may_train(fingerprint: str) -> bool:
    """Whether somebody trains in the folder of a fingerprint, or may do so on another machine."""
    lock = paths.kept(paths.CHECKPOINTS) / (fingerprint or "none") / "lock"
    if not lock.exists():
        return False
    said = re.match(r"process \S+ on (.+), since ", locks.holder(lock))
    return locks.is_locked(lock) or (said is not None and said[1] != socket.gethostname())
