"""Who was the champion when: the decisions on a model, in an order that all machines agree on.

MLflow sets an alias without looking at what it was (no compare-and-set) and gives aliases no history. But it numbers the versions
of a registered model one after the other, each number once, and writes a version with all its tags in one transaction. So decisions
are the versions of a registered model beside the one that they are about, NAME.decisions: a log that several machines append to.
Each names the decision that its writer knew as the last. One that another has overtaken does not count, for any reader, and its
writer takes it back and is told. There is no lock that a killed process could leave behind, and no clock has a say.
"""

import json
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt.errors import UserError
from gpt.registry.versions import all_versions, find_model, set_shared
from gpt.secrets.hiding import redact, redact_values

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHALLENGER_VERDICT, REFUSED = "challenger", "refused"
PROMOTED, RESTORED, BY_HAND, WITHDRAWN = "promoted", "restored", "set_by_hand", "withdrawn"
# Verdicts of a version that no decision of its own says: it was replaced by a rollback; nothing was to be decided.
ROLLED_BACK, UNCHANGED = "rolled_back", "unchanged"
MOVES = (PROMOTED, RESTORED, BY_HAND, WITHDRAWN)
"Decisions that change who is the champion."
LOG = ".decisions"
_DECISION, _AFTER, _ID, _CARRIED_OUT = "decision", "after", "id", "carried_out"
_EARLIER = "promotion."
_TEXT_CHARACTERS = 2000
_ATTEMPTS = 20

Json = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """A decision on `version`; `previous_version` was the champion until then, None if there was none."""

    number: int
    "Its place in the log; 0 and below for decisions of earlier releases, which had none."
    time: str
    "By the server's clock, in UTC. It decides nothing."
    verdict: str
    version: int
    previous_version: int | None
    reason: str
    by: str
    "Who asked for it: user@host."
    details: Json
    "Every check with its figures, and what the verdict depends on."
    carried_out: bool
    "The alias and the tags of versions say it too."

    @property
    def champion(self) -> int | None:
        """Return the champion from this decision on; only for one of `MOVES`."""
        return None if self.verdict == WITHDRAWN else self.version


def audit_trail(client: "MlflowClient", name: str) -> list[Event]:
    """Return all decisions on a registered model that count, the oldest first; those of earlier releases come before ours."""
    model = find_model(client, name)
    if model is None:
        return []
    ours = [_event(version) for version in _counting(_entries(client, model))]
    return [*_earlier_events(model), *ours]


def last_move(trail: list[Event]) -> Event | None:
    """Return the decision that made the champion of now, None if nothing was decided yet."""
    return next((event for event in reversed(trail) if event.verdict in MOVES), None)


def champion_of(trail: list[Event]) -> int | None:
    """Return the champion's version, None if there is none."""
    moved = last_move(trail)
    return moved.champion if moved else None


def last_challenger(trail: list[Event]) -> int | None:
    """Return the version that has passed the gate and waits, None if there is none."""
    waits = None
    for event in trail:
        if event.verdict == CHALLENGER_VERDICT:
            waits = event.version
        elif event.version == waits:
            waits = None
    return waits


def append(
    client: "MlflowClient",
    name: str,
    seen: list[Event],
    verdict: str,
    version: int,
    reason: str,
    by: str,
    details: Json | None = None,
) -> Event | None:
    """Add a decision that was taken in knowledge of the trail `seen`; None if another one was faster: then nothing is added."""
    previous = champion_of(seen)
    decision = {"verdict": verdict, "version": version, "previous_version": previous, "reason": reason, "by": by}
    key = uuid.uuid4().hex
    tags = {
        _DECISION: json.dumps(redact_values(decision | {"details": details or {}})),
        _AFTER: str(max(0, seen[-1].number) if seen else 0),
        _ID: key,
        "verdict": verdict,
        "version": str(version),
    }
    number = int(_create(client, name, version, f"{verdict}: {reason}", tags).version)
    model = find_model(client, name)
    entries = _entries(client, model) if model else []
    counting = _counting(entries)
    # More than one if the connection broke and the client sent it again.
    ours = next((entry for entry in counting if entry.tags[_ID] == key), None)
    for entry in entries:
        if entry.tags[_ID] == key and entry is not ours:
            _delete(client, entry)
    if ours is None and not any(entry.tags[_ID] == key for entry in entries):
        raise UserError(f"{name}{LOG}: version {number} was deleted while it was written; run the command again")
    return _event(ours) if ours else None


def mark_carried_out(client: "MlflowClient", name: str, event: Event) -> None:
    """Note that aliases and tags say what was decided."""
    set_shared(client.set_model_version_tag, name + LOG, str(event.number), _CARRIED_OUT, "true")


def _entries(client: "MlflowClient", model: "RegisteredModel") -> "list[ModelVersion]":
    """Return the versions of a model's log that are decisions, the oldest first; what a person has registered there is none."""
    found = reversed(all_versions(client, model.name + LOG))
    return [
        version
        for version in found
        if {_DECISION, _AFTER, _ID} <= set(version.tags)
        # Of a model of this name that was deleted as a whole nothing is known any more: versions count from 1 again.
        and version.creation_timestamp >= (model.creation_timestamp or 0)
    ]


def _earlier_events(model: "RegisteredModel") -> list[Event]:
    """Return what releases before this log have decided: a tag `promotion.TIME` of the registered model each."""
    times = sorted(key.removeprefix(_EARLIER) for key in model.tags if re.match(rf"{re.escape(_EARLIER)}\d{{4}}-", key))
    return [
        Event(
            # Below every number of the log, which begins with 1.
            number=place - len(times),
            time=when,
            **{"previous_version": None, "reason": ""} | json.loads(model.tags[_EARLIER + when]),
            by="unknown",
            details={},
            carried_out=True,
        )
        for place, when in enumerate(times)
    ]


def _counting(entries: "list[ModelVersion]") -> "list[ModelVersion]":
    """Return the entries whose writers knew the last one before that counts."""
    counting: list[ModelVersion] = []
    for entry in entries:
        # Not `==`: a person may have deleted an entry that its successor names.
        if not counting or int(entry.tags[_AFTER]) >= int(counting[-1].version):
            counting.append(entry)
    return counting


def _event(entry: "ModelVersion") -> Event:
    seconds, milliseconds = divmod(entry.creation_timestamp, 1000)
    written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z"
    decision = json.loads(entry.tags[_DECISION])
    return Event(int(entry.version), written, **decision, carried_out=_CARRIED_OUT in entry.tags)


def _create(client: "MlflowClient", name: str, version: int, description: str, tags: dict[str, str]) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    text = redact(description)
    shown = text if len(text) <= _TEXT_CHARACTERS else text[: _TEXT_CHARACTERS - 1] + "…"
    for attempt in range(_ATTEMPTS):
        try:
            return client.create_model_version(name + LOG, f"models:/{name}/{version}", tags=tags, description=shown)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and not attempt:
                _create_log(client, name)
            # The server gives up when writers collide three times on databases that let them.
            elif "Giving up after" not in str(error) or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _create_log(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    text = f"Decisions on {name}, in their order: each version here is one. Written by `gpt`; do not delete."
    try:
        client.create_registered_model(name + LOG, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _delete(client: "MlflowClient", entry: "ModelVersion") -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.delete_model_version(entry.name, entry.version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def champions_before(trail: list[Event], current: int) -> list[int]:
    """Return what was the champion before `current`, before that one, and so on, each once."""
    champions: list[int] = []
    stack: list[int] = []
    for event in trail:
        if event.verdict not in MOVES or event.champion is None:
            continue
        if event.verdict == RESTORED and event.champion in stack:
            del stack[stack.index(event.champion) + 1 :]  # a rollback: what came after it is not gone back to
        else:
            stack.append(event.champion)
    for number in reversed(stack):
        if number != current and number not in champions:
            champions.append(number)
    return champions
