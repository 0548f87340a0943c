"""The files of a run in the spool: `<run>.jsonl` holds its events, `<run>.state` how far a store has them.

Both outlive kills, other versions of this project and a hand that edits them: what cannot be read is told, never raised.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gpt.files import write_json

Event = dict[str, Any]

# What the events of each kind must have to be sent.
NEEDED = {
    "start": ("experiment", "run", "time_ms"),
    "find": ("experiment", "fingerprint"),
    "name": (),
    "params": ("values",),
    "dataset": ("name", "digest", "source", "profile", "tags"),
    "tags": ("values",),
    "metrics": ("step", "values", "time_ms"),
    "figures": ("values", "time_ms"),
    "note": ("parts",),
    "text": ("path", "text"),
    "file": ("path", "base64"),
    "resume": (),
    "end": ("status", "time_ms"),
    "done": (),
}
BEGINNINGS = ("start", "find")
"One of these is a journal's first event: it makes a run, or finds the one that is added to."


@dataclass
class State:
    """How far a store has a journal."""

    store: str = ""
    "The address of the store, without credentials."
    place: str = ""
    "The spool in which this was written: a copy of a project has another."
    run_id: str | None = None
    "MLflow's id of the run, once there is one."
    offset: int = 0
    "Bytes of the journal that were sent, or refused."
    refused: dict[str, list[int]] = field(default_factory=dict)
    "Why events were refused, and the offsets at which they begin."
    blocked: str = ""
    "Why the store takes nothing of this run; empty: it takes it."


def read_state(journal: Path) -> State:
    """Return what is known of a journal's delivery; what is missing, of another form, or of a longer journal is nothing."""
    try:
        values = json.loads(state_path(journal).read_text(encoding="utf-8"))
        state = State(**{one.name: values[one.name] for one in fields(State) if one.name in values})
        is_sound = (
            isinstance(state.offset, int)
            and 0 <= state.offset <= journal.stat().st_size
            and isinstance(state.run_id, str | None)
            and isinstance(state.refused, dict)
        )
    except (OSError, ValueError, TypeError):
        return State()
    return state if is_sound else State()


def write_state(journal: Path, state: State) -> None:
    write_json(state_path(journal), asdict(state))


def state_path(journal: Path) -> Path:
    return journal.with_suffix(".state")


def lock_path(journal: Path) -> Path:
    """The file that whoever delivers a journal holds."""
    return journal.with_suffix(".lock")


def place_of(journal: Path) -> str:
    return f"{socket.gethostname()}:{journal.parent.resolve()}"


def read_events(journal: Path, offset: int = 0) -> Iterator[Event]:
    """Yield the events after a byte offset, each with the offsets of its `begin` and `end_offset`.

    A line that is no event is one of the kind "damaged", with the `reason`. A last line without its end is left for later.
    """
    with journal.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            begin, offset = offset, offset + len(line)
            yield _parse(line) | {"begin": begin, "end_offset": offset}


def read_event(journal: Path, offset: int) -> Event | None:
    """Return the event that begins at a byte offset, None if none does."""
    return next(read_events(journal, offset), None)


def last_event(journal: Path) -> Event | None:
    event = None
    for event in read_events(journal):  # noqa: B007
        pass
    return event


def has_finished(journal: Path) -> bool:
    """Whether it has no more to tell: an addition is done, or its run ended as FINISHED. A stopped one goes on here later."""
    last = last_event(journal)
    return last is not None and (last["kind"] == "done" or (last["kind"] == "end" and last["status"] == "FINISHED"))


def is_delivered(journal: Path) -> bool:
    with suppress(FileNotFoundError):
        return read_state(journal).offset >= journal.stat().st_size
    return True  # whoever delivered it removed it


def _parse(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        return {"kind": "damaged", "reason": "not JSON: half written, or damaged"}
    kind = event.get("kind") if isinstance(event, dict) else None
    if kind not in NEEDED:
        return {"kind": "damaged", "reason": f"no event that this version knows ({str(kind)[:40]})"}
    if missing := [name for name in NEEDED[kind] if name not in event]:
        return {"kind": "damaged", "reason": f"an event {kind} without {', '.join(missing)}"}
    if not isinstance(event.get("values", {}), dict):
        return {"kind": "damaged", "reason": f"an event {kind} whose values are none"}
    return event


def remove(journal: Path) -> None:
    """Remove a journal with what belongs to it."""
    for path in (journal, state_path(journal), lock_path(journal)):
        path.unlink(missing_ok=True)
