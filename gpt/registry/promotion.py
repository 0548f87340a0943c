"""Promotion of a candidate to champion, and rollback: candidate → challenger (the gate passed) → champion.

Decisions go to a trail that all machines agree on (gpt/registry/trail.py); aliases follow it. A command that was cut off is run
again: what it has decided is carried out, and nothing is decided twice.
"""

import getpass
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpt.errors import UserError
from gpt.params.project import Params
from gpt.registry.champion import State, carry_out, settle
from gpt.registry.gate.reasons import Judgeable, OpenCase, Reason, draw_table
from gpt.registry.packaging.offer import suffix, take_over
from gpt.registry.trail import (
    CHALLENGER_VERDICT,
    MOVES,
    PROMOTED,
    REFUSED,
    RESTORED,
    UNCHANGED,
    Event,
    append,
    audit_trail,
    champion_of,
    champions_before,
    last_challenger,
    last_move,
)
from gpt.registry.versions import CANDIDATE, CHALLENGER, CHAMPION, find, registry_lock, version_of_alias, why_gone
from gpt.secrets.hiding import redact
from gpt.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from gpt.registry.gate.scores import Comparison

_ATTEMPTS = 100


@dataclass(frozen=True)
class Promotion:
    """What was decided about `version`; `previous_version` was champion until then, None if there was none."""

    name: str
    version: int
    verdict: str
    reasons: tuple[Reason, ...]
    previous_version: int | None
    case: Judgeable | None = field(default=None, compare=False, repr=False)
    "What was judged; None if nothing was."

    @property
    def comparison(self) -> "Comparison | None":
        """Return what candidate and champion scored beside each other, None if nothing was compared."""
        with store.store_errors():
            return self.case.compare(self.reasons) if self.case else None

    @property
    def refused(self) -> bool:
        return self.verdict == REFUSED

    def describe(self) -> str:
        """Return the decision and its reasons, a line each."""
        before = "there is none" if self.previous_version is None else f"it stays version {self.previous_version}"
        was = "the first" if self.previous_version is None else f"it was version {self.previous_version}"
        head = {
            PROMOTED: f"{self.name} version {self.version} is the {CHAMPION} now ({was})",
            REFUSED: f"{self.name} version {self.version} is not promoted to {CHAMPION} ({before})",
            CHALLENGER_VERDICT: f"{self.name} version {self.version} has passed the gate and is the {CHALLENGER};"
            f" `gpt promote --name {self.name}` makes it the champion",
            RESTORED: f"{self.name} version {self.version} is the {CHAMPION} again ({was})",
            UNCHANGED: f"{self.name} version {self.version} is the {CHAMPION} already",
        }[self.verdict]
        return "\n".join([head, *draw_table(self.reasons)])


def judge_candidate(
    params: Params, project: Path, version: int | None = None, open_case: OpenCase | None = None
) -> Promotion | None:
    """Let the candidate pass the gate or be refused, if nobody has asked since something changed; None if it is the champion.

    With `register.gate.automatic` what passes is the champion at once. None too if the candidate is not `version` any more: whoever
    registered a newer one lets that be judged.
    """
    name = params.register_.name
    client = store.existing_client()
    with store.store_errors():
        candidate = _candidate(client, name)
        with registry_lock():
            state = settle(client, name, _who())
        if _number(candidate) == state.champion_number or version not in (None, _number(candidate)):
            return None
        judged = _judged(client, candidate, open_case or _pretrained(params, project))
        if judged.refused or not params.register_.gate.automatic:
            return judged
        return _move(client, name, judged)


def judge_registered(
    params: Params, project: Path, version: int | None = None, open_case: OpenCase | None = None
) -> "tuple[str, tuple[Reason, ...], Comparison | None]":
    """Judge the candidate that was registered just now; return what is to be told, what the gate looked at, and the comparison.

    What cannot be judged here stays a candidate: `gpt promote` asks again. There is no comparison where there was no champion.
    """
    if suffix():
        return "not judged yet: `gpt promote` does so, with the account that may promote", (), None
    try:
        judged = judge_candidate(params, project, version, open_case)
    except UserError as error:  # what is missing, or another process that decided meanwhile
        return f"not judged yet: {error}", (), None
    if judged is None:
        return "", (), None
    try:
        return judged.describe(), judged.reasons, judged.comparison
    except UserError as error:  # a verdict of before holds, but what it was taken on is not here
        return f"{judged.describe()}\nno comparison is drawn: {error}", judged.reasons, None


def promote(params: Params, project: Path, *, other_data: bool = False, open_case: OpenCase | None = None) -> Promotion:
    """Make the challenger the champion, or the candidate if it passes the gate; every verdict is recorded.

    A verdict holds while the champion, the settings and the code of the gate are what they were; else the gate is asked again.
    `other_data` compares with no champion: thresholds decide, as for the first model. `open_case` judges models of another kind
    than pretrained ones, and then says that itself.
    Raises `UserError` if there is no candidate, it cannot be judged, or another process decided something meanwhile.
    """
    name, open_case = params.register_.name, open_case or _pretrained(params, project, other_data)
    client = store.existing_client()
    with store.store_errors():
        with registry_lock():
            take_over(client, name)
            state = settle(client, name, _who())
        challenger = last_challenger(state.trail)
        candidate = _candidate(client, name, challenger)
        if _number(candidate) == state.champion_number and challenger is None:
            return Promotion(name, int(candidate.version), UNCHANGED, (), state.champion_number)
        judged = None
        if _number(candidate) != state.champion_number:
            judged = _judged(client, candidate, open_case)
        if judged is None or judged.refused:
            # What has passed before and waits does not go for a newer one that was refused.
            waiting = None if challenger in (None, _number(candidate)) else find(client, name, challenger)
            if waiting is None:  # or it was deleted
                return judged or Promotion(name, int(candidate.version), UNCHANGED, (), state.champion_number)
            judged = _judged(client, waiting, open_case)
            if judged.refused:
                return judged
        return _move(client, name, judged)


def rollback(params: Params, version: int | None = None, reason: str = "") -> Promotion:
    """Make an earlier champion the champion again, the last one before it that exists if none is named.

    What is replaced is never promoted again, unless a person rolls back to it by its number.
    Raises `UserError` if there is no champion, none before it that exists, `version` was none, or another process was faster.
    """
    name = params.register_.name
    client = store.existing_client()
    with store.store_errors(), registry_lock():
        state = settle(client, name, _who())
        current = state.champion_number
        if current is None:
            raise UserError(f"{name} has no version with the alias {CHAMPION}; there is nothing to roll back")
        if version is None:
            target, gone = _champion_before(client, name, state)
        else:
            target, gone = _earlier_champion(client, name, state, version), []
        text = "; ".join(
            [f"version {current} was rolled back to version {target}", *gone, *([reason] if reason else [])]
        )
        event = append(client, name, state.trail, RESTORED, target, text, _who(), {"reason": reason})
        if event is None:
            raise _overtaken(client, name, state.champion_number, "gpt rollback")
        carry_out(client, name, event)
        return Promotion(name, target, RESTORED, (Reason("rollback", True, text),), current)


def _pretrained(params: Params, project: Path, other_data: bool = False) -> OpenCase:
    from gpt.registry.gate.judge import PretrainedCase  # here, as it brings torch, which a rollback does without

    return lambda client, version, champion: PretrainedCase(client, version, champion, params, project, other_data)


def _judged(client: "MlflowClient", version: "ModelVersion", open_case: OpenCase) -> Promotion:
    """Return the verdict that holds on a version; ask the gate and record what it says if none does."""
    name = version.name
    for _ in range(_ATTEMPTS):
        trail = audit_trail(client, name)
        champion = _champion_of(client, name, trail)
        case = open_case(client, _fresh(client, version), champion)
        key = case.depends_on()
        last = next((event for event in reversed(trail) if event.version == int(version.version)), None)
        if last and last.verdict in (CHALLENGER_VERDICT, REFUSED) and last.details.get("depends_on") == key:
            return _as_promotion(name, last, case)
        reasons = tuple(case.judge())  # may take minutes: outside the lock
        verdict = CHALLENGER_VERDICT if all(reason.passed for reason in reasons) else REFUSED
        details = {"depends_on": key, "checks": [reason.to_dict() for reason in reasons]}
        text = "; ".join(
            f"{reason.check}: {reason.text}" for reason in reasons if verdict != REFUSED or not reason.passed
        )
        with registry_lock():
            state = settle(client, name, _who())
            if _number(_champion_of(client, name, state.trail)) != _number(champion):
                raise _overtaken(client, name, _number(champion), "gpt promote")
            event = append(client, name, state.trail, verdict, int(version.version), text, _who(), details)
            if event:
                carry_out(client, name, event)
                return _as_promotion(name, event, case)
    raise UserError(f"{name}: other processes decide on it all the time; run the command again")


def _move(client: "MlflowClient", name: str, judged: Promotion) -> Promotion:
    """Make a challenger the champion, unless the champion or the challenger is another one than it was judged with."""
    for _ in range(_ATTEMPTS):
        with registry_lock():
            state = settle(client, name, _who())
            if state.champion_number == judged.version:
                return Promotion(name, judged.version, UNCHANGED, (), judged.version)
            last = next((event for event in reversed(state.trail) if event.version == judged.version), None)
            if state.champion_number != judged.previous_version or last is None or last.verdict != CHALLENGER_VERDICT:
                raise _overtaken(client, name, judged.previous_version, "gpt promote")
            event = append(
                client, name, state.trail, PROMOTED, judged.version, last.reason, _who(), last.details
            )  # fmt: skip
            if event:
                carry_out(client, name, event)
                return replace(judged, verdict=PROMOTED)
    raise UserError(f"{name}: other processes decide on it all the time; run the command again")


def _overtaken(client: "MlflowClient", name: str, before: int | None, command: str) -> UserError:
    last = last_move(audit_trail(client, name))
    now = f"version {last.champion}, by {last.by} ({last.verdict})" if last else "none"
    return UserError(
        f"{name}: another process decided meanwhile: the {CHAMPION} was {_spell(before)} and is {now} now;"
        f" run `{command}` again if that is still what you want"
    )


def _spell(number: int | None) -> str:
    return "none" if number is None else f"version {number}"


def _as_promotion(name: str, event: Event, case: Judgeable) -> Promotion:
    reasons = tuple(Reason(**check) for check in event.details["checks"])
    return Promotion(name, event.version, event.verdict, reasons, event.previous_version, case)


def _candidate(client: "MlflowClient", name: str, challenger: int | None = None) -> "ModelVersion":
    """Return the candidate, else the challenger: a refused candidate may have been deleted while that waits."""
    candidate = version_of_alias(client, name, CANDIDATE)
    if candidate is None and challenger is not None:
        candidate = find(client, name, challenger)
    if candidate is None:
        raise UserError(f"{name} has no version with the alias {CANDIDATE}; run `gpt register` first")
    return candidate


def _champion_of(client: "MlflowClient", name: str, trail: list[Event]) -> "ModelVersion | None":
    number = champion_of(trail)
    return None if number is None else find(client, name, number)


def _fresh(client: "MlflowClient", version: "ModelVersion") -> "ModelVersion":
    return client.get_model_version(version.name, version.version)


def _champion_before(client: "MlflowClient", name: str, state: State) -> tuple[int, list[str]]:
    """Return the last champion before the current one that exists, and what became of those in between, a text each."""
    current = state.champion_number
    assert current is not None, "asked only where there is one"
    gone: list[str] = []
    for number in champions_before(state.trail, current):
        if why := why_gone(client, name, number):
            gone.append(f"version {number} {why}")
        else:
            return number, gone
    if not gone:
        raise UserError(f"{name} version {current} is the first {CHAMPION}; there is none to go back to")
    raise UserError(
        f"{name}: no {CHAMPION} before version {current} exists any more ({', '.join(gone)});"
        " run `gpt register` and `gpt promote` with a model that does"
    )


def _earlier_champion(client: "MlflowClient", name: str, state: State, version: int) -> int:
    """Return `version` if it was the champion before and can be it again; raise `UserError` if not."""
    champions = sorted({event.champion for event in state.trail if event.verdict in MOVES and event.champion})
    known = ", ".join(str(number) for number in champions)
    if version == state.champion_number and state.champion is not None:
        raise UserError(f"{name} version {version} is the {CHAMPION} already; champions were version {known}")
    if version not in champions:
        raise UserError(f"{name} version {version} was never the {CHAMPION}; those that were are version {known}")
    if why := why_gone(client, name, version):
        raise UserError(f"{name} version {version} {why}; champions were version {known}")
    return version


def _number(version: "ModelVersion | None") -> int | None:
    return None if version is None else int(version.version)


def _who() -> str:
    """Return user@host, as far as this machine knows them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry
        user = "unknown"
    return redact(f"{user}@{socket.gethostname()}")
