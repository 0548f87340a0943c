"""The state of a registered model: who is the champion by the trail, and MLflow's aliases and tags brought in line with it.

A decision counts from the moment it is in the trail (gpt/registry/trail.py); the alias that serves follows. Whoever comes next
carries out what a killed process has decided and not carried out: all of it is in the decision.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt.errors import UserError
from gpt.registry.overview.description import refresh_description
from gpt.registry.trail import (
    BY_HAND,
    RESTORED,
    ROLLED_BACK,
    WITHDRAWN,
    Event,
    append,
    audit_trail,
    champion_of,
    last_challenger,
    last_move,
    mark_carried_out,
)
from gpt.registry.versions import CHALLENGER, CHAMPION, ROLLED_BACK_TAG, find, set_shared, version_of_alias
from gpt.secrets.hiding import redact
from gpt.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_ROUNDS = 100
_LASTING_SECONDS = 2.0
"""On a server, how long an alias must differ from the trail to have been set by hand: a process that was overtaken between its
decision and the alias corrects itself within two requests."""
_LOOK_SECONDS = 0.2
_REASON_CHARACTERS = 1000
_DECISION_TAG = "promotion.decision"


@dataclass(frozen=True)
class State:
    """What the trail and the aliases agree on."""

    trail: list[Event]
    champion: "ModelVersion | None"
    "None too if the champion was deleted."

    @property
    def champion_number(self) -> int | None:
        """Return the champion's version by the trail, also where somebody has deleted it."""
        return champion_of(self.trail)


def settle(client: "MlflowClient", name: str, by: str) -> State:
    """Carry out what was decided and is not done yet, note what a person has set by hand, and return the state."""
    for _ in range(_ROUNDS):
        trail = audit_trail(client, name)
        if waiting := [event for event in trail if not event.carried_out]:
            carry_out(client, name, *waiting)
            continue
        decided, alias = champion_of(trail), version_of_alias(client, name, CHAMPION)
        if _number(alias) == decided:
            return State(trail, alias)
        if alias is None and decided is not None and find(client, name, decided) is None:
            return State(trail, None)  # a deleted version takes its alias along
        if _lasts(client, name, trail, alias):
            _note(client, name, trail, alias, by)
    raise UserError(f"{name}: its aliases change all the time; find out who sets them, and run the command again")


def carry_out(client: "MlflowClient", name: str, *events: Event) -> None:
    """Let tags and aliases say what was decided. Doing it twice, or after a later decision, does no harm."""
    for event in events:
        _tag_versions(client, name, event)
    _follow(client, name)
    refresh_description(client, name)
    for event in events:
        mark_carried_out(client, name, event)


def _follow(client: "MlflowClient", name: str) -> None:
    """Set the aliases to what the trail says, until the trail has not changed meanwhile.

    Every process that has decided ends with this, so the last one to set an alias has seen the last decision.
    """
    followed: int | None = None
    while (trail := audit_trail(client, name)) and trail[-1].number != followed:
        followed = trail[-1].number
        if moved := last_move(trail):
            _set_alias(client, name, CHAMPION, moved.champion)
        _set_alias(client, name, CHALLENGER, last_challenger(trail))


def _set_alias(client: "MlflowClient", name: str, alias: str, number: int | None) -> None:
    held = _number(version_of_alias(client, name, alias))
    if number is None and held is not None:
        client.delete_registered_model_alias(name, alias)
    elif number is not None and number != held and find(client, name, number):
        set_shared(client.set_registered_model_alias, name, alias, str(number))


def _tag_versions(client: "MlflowClient", name: str, event: Event) -> None:
    """Let the tags of versions say what was decided, but where a later decision has said something since."""
    if version := _find_older(client, name, event.version, event):
        if event.verdict == RESTORED and ROLLED_BACK_TAG in version.tags:
            client.delete_model_version_tag(name, version.version, ROLLED_BACK_TAG)
        _tag(client, name, event.version, event.verdict, event)
    replaced = event.previous_version if event.verdict == RESTORED else None
    if replaced not in (None, event.version) and _find_older(client, name, replaced, event):
        set_shared(client.set_model_version_tag, name, str(replaced), ROLLED_BACK_TAG, event.time)
        _tag(client, name, replaced, ROLLED_BACK, event)


def _find_older(client: "MlflowClient", name: str, number: int, event: Event) -> "ModelVersion | None":
    version = find(client, name, number)
    return version if version and int(version.tags.get(_DECISION_TAG, 0)) <= event.number else None


def _tag(client: "MlflowClient", name: str, number: int, verdict: str, event: Event) -> None:
    reason = redact(event.reason)
    tags = {
        "promotion.verdict": verdict,
        "promotion.reason": reason if len(reason) <= _REASON_CHARACTERS else reason[: _REASON_CHARACTERS - 1] + "…",
        "promotion.champion_version": str(event.previous_version or "none"),
        "promotion.by": event.by,
        "promotion.time": event.time,
        _DECISION_TAG: str(event.number),
    }
    for key, value in tags.items():
        set_shared(client.set_model_version_tag, name, str(number), key, value)


def _lasts(client: "MlflowClient", name: str, trail: list[Event], alias: "ModelVersion | None") -> bool:
    """Whether trail and alias stay as they were seen, so that nobody is at work on them."""
    seen = [event.number for event in trail]
    if store.database_file(store.tracking_uri()):
        return True  # the lock of this machine is ours
    end = time.monotonic() + _LASTING_SECONDS
    while time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        if _number(version_of_alias(client, name, CHAMPION)) != _number(alias):
            return False
        if [event.number for event in audit_trail(client, name)] != seen:
            return False
    return True


def _note(client: "MlflowClient", name: str, trail: list[Event], alias: "ModelVersion | None", by: str) -> None:
    """Add to the trail that the alias was set, or removed, by other means than ours."""
    moved = last_move(trail)
    if alias is not None:
        append(client, name, trail, BY_HAND, int(alias.version), f"the alias {CHAMPION} was set outside of `gpt`", by)
    elif moved is not None:
        text = f"the alias {CHAMPION} was removed outside of `gpt`"
        append(client, name, trail, WITHDRAWN, moved.version, text, by)


def _number(version: "ModelVersion | None") -> int | None:
    return None if version is None else int(version.version)
