"""Journals on their way to the store. Nothing is lost on it: what a store refuses stays in the spool with its reason.

A journal knows which run it became and where. In a store that never had that run, or has deleted it for good, it begins
anew from its first event. What is sent twice is there once: a run has a key of its own, and a point carries its time.
"""

import fcntl
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpt.errors import UserError
from gpt.locks import holder, try_lock
from gpt.secrets.hiding import public_uri
from gpt.tracking import store
from gpt.tracking.events import NoRun, batches, brief, refusal, send_events
from gpt.tracking.spool import (
    BEGINNINGS,
    Event,
    State,
    has_finished,
    is_delivered,
    lock_path,
    place_of,
    read_event,
    read_events,
    read_state,
    remove,
    write_state,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


class Blocked(Exception):
    """The store takes nothing of a run; the message says why and what to do."""


class Homeless(Blocked):
    """The store has no run that a journal adds to."""


class _RunIsGone(Exception):
    """The store does not have the run (any more)."""


@dataclass(frozen=True)
class Outcome:
    """What came of the delivery of one journal."""

    run: str
    kind: Literal["delivered", "refused", "waiting", "live"]
    reason: str = ""


class Delivery:
    """Sends one journal; whoever has one holds `lock_path(journal)`."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._state = State()
        self._client: MlflowClient | None = None
        self._database: tuple[int, int] | None = None
        self.has_sent = False

    @property
    def run_id(self) -> str | None:
        return self._state.run_id

    @property
    def refused(self) -> dict[str, list[int]]:
        return self._state.refused

    def send(self, *, again: bool = False) -> None:
        """Send the events that were not sent yet; `again`: look whether the store has the run, and try what it refused.

        Raises `Blocked` if the store takes nothing of this run, `UserError` if there is no store, and whatever MLflow
        raises while a store fails.
        """
        if not again and is_delivered(self._journal):
            return
        try:
            if self._client is None or again:
                self._connect()
            self._check_database()
            try:
                self._send_rest(again)
            except _RunIsGone:
                self._begin_anew()
                self._send_rest(again=False)
        except BaseException:
            self._client = None  # look again at what the store has
            raise

    def _connect(self) -> None:
        """Find out whether the store has the run that the journal became."""
        self._client, here = store.client(), public_uri(store.tracking_uri())
        before, own = read_state(self._journal), place_of(self._journal)
        if before.store == here and before.place not in ("", own) and _is_there(before.place):
            before = State()  # copied with its project, whose own run this store has too
        self._state = replace(before, store=here, place=own, blocked="")
        try:
            self._check_run()
        except _RunIsGone:
            self._begin_anew()
        if self._state != before:
            write_state(self._journal, self._state)

    def _check_run(self) -> None:
        """Raise `_RunIsGone` if the store has no such run, `Blocked` if somebody deleted it and did not train on since."""
        from mlflow.exceptions import MlflowException

        assert self._client is not None
        if self._state.run_id is None:
            return
        try:
            run = self._client.get_run(self._state.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise _RunIsGone from None
            raise
        if run.info.lifecycle_stage == "active":
            return
        if any(event["kind"] == "resume" for event in read_events(self._journal, self._state.offset)):
            raise _RunIsGone
        raise self._block(
            f"its MLflow run {run.info.run_id} was deleted; bring it back with"
            f" `mlflow runs restore --run-id {run.info.run_id}` and run `gpt sync`, or delete {self._journal}"
        )

    def _begin_anew(self) -> None:
        self._state = State(store=self._state.store, place=self._state.place)

    def _block(self, reason: str, kind: type[Blocked] = Blocked) -> Blocked:
        self._state.blocked = reason
        write_state(self._journal, self._state)
        return kind(reason)

    def _check_database(self) -> None:
        """A local database that was deleted goes on to take what nobody will read: MLflow keeps it open."""
        self._database = self._database or _identity_of_database()
        if _identity_of_database() != self._database:
            raise UserError(
                f"{public_uri(store.tracking_uri())}: was replaced while this process used it; `gpt sync` delivers to the new one"
            )

    def _send_rest(self, again: bool) -> None:
        if again:
            for reason, offset in [(reason, one) for reason, some in self._state.refused.items() for one in some]:
                self._send_refused(reason, offset)
        for batch in batches(read_events(self._journal, self._state.offset)):
            self._send(batch)

    def _send_refused(self, reason: str, offset: int) -> None:
        """Try an event again; it stays among the refused unless the store takes it."""
        others = [one for one in self._state.refused.pop(reason) if one != offset]
        if others:
            self._state.refused[reason] = others
        try:
            if event := read_event(self._journal, offset):
                later = read_events(self._journal, event["end_offset"])
                if "path" not in event or all(one.get("path") != event["path"] for one in later):  # a newer file stays
                    self._send([event])
        except BaseException:
            self._state.refused.setdefault(reason, []).append(offset)
            raise

    def _send(self, batch: list[Event]) -> None:
        """Send one event, or many of metrics; note those that the store refuses."""
        assert self._client is not None
        state, event = self._state, batch[0]
        try:
            if event["kind"] == "damaged":
                raise UserError(event["reason"])
            if state.run_id is None and event["kind"] not in BEGINNINGS:
                raise self._block(f"{self._journal} does not begin with the start of a run; delete it")
            state.run_id = send_events(self._client, batch, state.run_id, state.place)
        except Exception as error:
            if (reason := refusal(error, event["kind"])) is None:
                raise
            if event["kind"] in BEGINNINGS:
                raise self._block(reason, Homeless if isinstance(error, NoRun) else Blocked) from None
            self._check_run()
            if len(batch) > 1:
                for one in batch:
                    self._send([one])
                return
            if reason not in state.refused:
                logger.warning(
                    "%s: the store refuses %s (%s); it stays there and the rest goes on; `gpt sync` tries it again",
                    self._journal, event["kind"], reason,
                )  # fmt: skip
            state.refused.setdefault(reason, []).append(event["begin"])
        self.has_sent = True
        state.offset = max(state.offset, batch[-1]["end_offset"])
        write_state(self._journal, state)


def deliver(journal: Path) -> None:
    """Send the events of a journal that were not sent yet; raise whatever the server's client raises."""
    Delivery(journal).send()


def deliver_left_behind(spool: Path, skip: str | None = None) -> int:
    """Deliver the journals of runs that ended before the store had everything; return how many are complete now.

    What waits and what is refused is a warning.
    """
    outcomes = list(deliver_each(spool, skip))
    for outcome in outcomes:
        if outcome.kind in ("waiting", "refused"):
            logger.warning("tracking server: %s; %s waits for `gpt sync`", outcome.reason, spool / outcome.run)
    return sum(outcome.kind == "delivered" for outcome in outcomes)


def deliver_each(spool: Path, skip: str | None = None, *, again: bool = False) -> Iterator[Outcome]:
    """Deliver journals one by one and yield what came of each. The runs of processes that train now deliver themselves.

    `again`: look at all, also at what this store refused before. Raises `UserError` if the store cannot be reached.
    """
    for journal in sorted(spool.glob("*.jsonl")):
        if journal.stem == skip or not (again or _is_due(journal)):
            continue
        lock = try_lock(lock_path(journal))
        if lock is None:
            yield Outcome(journal.stem, "live", holder(lock_path(journal)))
            continue
        with lock:
            if not journal.exists():
                lock_path(journal).unlink(missing_ok=True)
                continue  # another delivered it in this moment
            delivery = Delivery(journal)
            try:
                delivery.send(again=again)
            except Blocked as error:
                yield Outcome(journal.stem, "refused", str(error))
                continue
            except UserError:
                raise
            except Exception as error:  # a server can fail in any way
                yield Outcome(journal.stem, "waiting", brief(error))
                if not _answers():
                    return
                continue
            if delivery.refused:
                yield Outcome(journal.stem, "refused", _tell_refused(delivery.refused))
                continue
            remove_if_finished(journal)
            if delivery.has_sent:
                yield Outcome(journal.stem, "delivered")


def remove_if_finished(journal: Path) -> None:
    """Remove a journal that has arrived and has no more to tell. What was refused stays, and what another has open."""
    if not is_delivered(journal) or read_state(journal).refused or not has_finished(journal):
        return
    with journal.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if not is_delivered(journal) or not has_finished(journal):  # somebody wrote meanwhile
            return
        remove(journal)


def _is_due(journal: Path) -> bool:
    """Whether something of a journal waits that the store of now has not refused as a whole."""
    state = read_state(journal)
    return not is_delivered(journal) and not (state.blocked and state.store == public_uri(store.tracking_uri()))


def _answers() -> bool:
    """Whether the store works at all, so that what failed was about one journal."""
    try:
        store.client().search_experiments(max_results=1)
    except Exception:  # in any way
        return False
    return True


def _is_there(place: str) -> bool:
    """Whether a spool lies on this machine."""
    return (
        place.rpartition(":")[0] == place_of(Path("x")).rpartition(":")[0] and Path(place.rpartition(":")[2]).is_dir()
    )


def _identity_of_database() -> tuple[int, int] | None:
    """Return which file a local store is, None before there is one and for a server."""
    file = store.database_file(store.tracking_uri())
    if file is None or not file.exists():
        return None
    found = file.stat()
    return found.st_dev, found.st_ino


def _tell_refused(refused: dict[str, list[int]]) -> str:
    return "; ".join(f"{len(offsets)} events were refused: {reason}" for reason, offsets in refused.items())
