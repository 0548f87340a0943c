"""Promotion of the candidate to champion, if it passes the gate, and rollback.

A verdict is a list of reasons, each with its figure and its threshold. Aliases have no history, so decisions are kept
in tags: all of them on the registered model, written before the alias moves, and the last one on the version.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt import paths
from gpt.errors import UserError
from gpt.params.project import Params
from gpt.registry.overview.description import refresh_description
from gpt.registry.trail import (
    PROMOTED,
    REFUSED,
    RESTORED,
    ROLLED_BACK,
    TIME,
    TRAIL,
    UNCHANGED,
    audit_trail,
    champions_before,
    last_champion,
)
from gpt.registry.versions import (
    CANDIDATE,
    CHAMPION,
    ROLLED_BACK_TAG,
    find,
    find_model,
    is_on_disk,
    model_folder,
    registry_lock,
    version_of_alias,
)
from gpt.secrets.hiding import redact, redact_values
from gpt.tracking import store

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Reason:
    """One thing that the gate looked at; a figure passes when it is below the threshold."""

    check: str
    passed: bool
    text: str
    figure: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Promotion:
    """What was decided about `version`; `previous_version` was champion until then, None if there was none."""

    name: str
    version: int
    verdict: str
    reasons: tuple[Reason, ...]
    previous_version: int | None

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
            RESTORED: f"{self.name} version {self.version} is the {CHAMPION} again ({was})",
            UNCHANGED: f"{self.name} version {self.version} is the {CHAMPION} already",
        }[self.verdict]
        return "\n".join(
            [head, *(f"  {'passed' if reason.passed else 'failed'}: {reason.text}" for reason in self.reasons)]
        )


def promote(params: Params, project: Path) -> Promotion:
    """Make the candidate the champion if it passes the gate, and record the verdict either way.

    Raises `UserError` if there is no candidate, it cannot be compared with the champion, or either changed meanwhile.
    """
    name = params.register_.name
    client = store.existing_client()
    with store.store_errors():
        candidate = version_of_alias(client, name, CANDIDATE)
        if candidate is None:
            raise UserError(f"{name} has no version with the alias {CANDIDATE}; run `gpt register` first")
        champion = version_of_alias(client, name, CHAMPION)
        if _number(champion) == _number(candidate):
            return Promotion(name, int(candidate.version), UNCHANGED, (), int(candidate.version))
        reasons = tuple(_judge(client, candidate, champion, params, project))  # may take minutes: outside the lock
        passed = all(reason.passed for reason in reasons)
        promotion = Promotion(name, int(candidate.version), PROMOTED if passed else REFUSED, reasons, _number(champion))
        with registry_lock():
            _check_unchanged(client, name, candidate, champion)
            if passed or not _is_recorded(candidate, promotion):
                _append_trail(client, promotion)
            if passed:
                client.set_registered_model_alias(name, CHAMPION, str(candidate.version))
            _tag_version(client, promotion)
            refresh_description(client, name)
    return promotion


def rollback(params: Params) -> Promotion:
    """Give the champion's alias back to the last champion before it that exists; `gpt promote` does not take this one again.

    Raises `UserError` if there is no champion, or none before it that exists.
    """
    name = params.register_.name
    client = store.existing_client()
    with store.store_errors(), registry_lock():
        champion = version_of_alias(client, name, CHAMPION)
        current = _number(champion) or _deleted_champion(client, name)
        previous, gone = _champion_before(client, name, current)
        text = "; ".join([f"version {current} was rolled back to version {previous}", *gone])
        reason = Reason("rollback", True, text)
        promotion = Promotion(name, previous, RESTORED, (reason,), current)
        _append_trail(client, promotion)
        if champion:
            client.set_model_version_tag(name, str(current), ROLLED_BACK_TAG, _now())
        client.set_registered_model_alias(name, CHAMPION, str(previous))
        _tag_version(client, promotion)
        if champion:
            _tag_version(client, Promotion(name, current, ROLLED_BACK, (reason,), previous))
        refresh_description(client, name)
    return promotion


def _judge(
    client: "MlflowClient", candidate: "ModelVersion", champion: "ModelVersion | None", params: Params, project: Path
) -> Iterator[Reason]:
    """Yield what the gate looks at."""
    if when := candidate.tags.get(ROLLED_BACK_TAG):
        text = f"it was rolled back on {when}; register another, or delete its tag {ROLLED_BACK_TAG}"
        yield Reason("not_rolled_back", False, text)
    figure = _bits_per_byte(candidate)
    if champion is None:
        threshold, whose = params.register_.max_bits_per_byte, "register.max_bits_per_byte"
    elif champion.tags.get("test_documents_sha256") == candidate.tags["test_documents_sha256"]:
        threshold, whose = _bits_per_byte(champion), f"champion version {champion.version}"
    else:
        threshold = _measure_again(client, champion, candidate, project)
        whose = f"champion version {champion.version}, measured on the candidate's documents"
    passed = figure < threshold
    text = f"test bits per byte {figure:.4f} is {'' if passed else 'not '}below {threshold:.4f} ({whose})"
    yield Reason("test_bits_per_byte", passed, text, figure, threshold)


def _bits_per_byte(version: "ModelVersion") -> float:
    try:
        version.tags["test_documents_sha256"]
        return float(version.tags["test_bits_per_byte"])
    except (KeyError, ValueError):
        raise UserError(
            f"models:/{version.name}/{version.version}: not registered by `gpt register`; it has no test_bits_per_byte"
        ) from None


def _measure_again(client: "MlflowClient", champion: "ModelVersion", candidate: "ModelVersion", project: Path) -> float:
    """Return the champion's bits per byte on the documents that the candidate was measured on."""
    import numpy as np

    from gpt.corpus.documents import describe_documents, read_documents
    from gpt.evaluation.likelihood import Likelihood, documents_likelihood
    from gpt.model.storage import default_device, load_model

    folder = project / paths.DOCUMENTS
    if describe_documents(folder)["test"]["sha256"] != candidate.tags["test_documents_sha256"]:
        raise UserError(
            f"{folder}: not the documents that the candidate was measured on, which the champion must be measured on too;"
            " run `gpt promote` in the project that registered it, after `dvc repro`"
        )
    model, encoding = load_model(model_folder(client, champion), default_device())
    text_bytes = 0

    def documents() -> "Iterator[np.ndarray]":
        nonlocal text_bytes
        for document in read_documents(folder, "test"):
            text_bytes += len(document["text"].encode())
            yield np.asarray([*encoding.encode_ordinary(document["text"]), encoding.eot_token], dtype=np.int64)

    nats, tokens = documents_likelihood(model, documents(), encoding.eot_token)
    return Likelihood(nats, tokens, text_bytes).bits_per_byte


def _check_unchanged(
    client: "MlflowClient", name: str, candidate: "ModelVersion", champion: "ModelVersion | None"
) -> None:
    """MLflow cannot compare and set an alias: looking again just before leaves milliseconds instead of minutes."""
    for alias, before in ((CANDIDATE, candidate), (CHAMPION, champion)):
        now = version_of_alias(client, name, alias)
        if _number(now) != _number(before):
            raise UserError(
                f"{name}: the {alias} changed from version {_number(before)} to {_number(now)} meanwhile;"
                " run `gpt promote` again"
            )


def _tag_version(client: "MlflowClient", promotion: Promotion) -> None:
    for key, value in _version_tags(promotion).items():
        client.set_model_version_tag(promotion.name, str(promotion.version), key, redact(value))
    client.set_model_version_tag(promotion.name, str(promotion.version), "promotion.time", _now())


def _version_tags(promotion: Promotion) -> dict[str, str]:
    tags = {
        "promotion.verdict": promotion.verdict,
        "promotion.reason": "; ".join(reason.text for reason in promotion.reasons),
        "promotion.champion_version": str(promotion.previous_version or "none"),
    }
    for reason in promotion.reasons:
        if reason.figure is not None:
            tags |= {
                f"promotion.{reason.check}": repr(reason.figure),
                f"promotion.{reason.check}.threshold": repr(reason.threshold),
            }
    return tags


def _is_recorded(version: "ModelVersion", promotion: Promotion) -> bool:
    """Whether the version's tags say this already: a schedule that asks every hour adds nothing to the audit trail."""
    return all(version.tags.get(key) == value for key, value in _version_tags(promotion).items())


def _append_trail(client: "MlflowClient", promotion: Promotion) -> None:
    """Add a decision to the audit trail, as a tag of its own: no tag is rewritten, so none can be lost."""
    event: dict[str, Any] = {
        "verdict": promotion.verdict,
        "version": promotion.version,
        "previous_version": promotion.previous_version,
        "reason": "; ".join(reason.text for reason in promotion.reasons),
    }
    # A rollback goes by the order of these tags, which are named by time: none may come before the last, whatever this clock says.
    trail = audit_trail(client, promotion.name)
    client.set_registered_model_tag(
        promotion.name, TRAIL + _time_after(trail[-1]["time"] if trail else ""), json.dumps(redact_values(event))
    )


def _deleted_champion(client: "MlflowClient", name: str) -> int:
    """Return the version that was the champion until it was deleted; raise `UserError` if there is none."""
    last = last_champion(audit_trail(client, name)) if find_model(client, name) else None
    if last is None or find(client, name, last):
        raise UserError(f"{name} has no version with the alias {CHAMPION}; there is nothing to roll back")
    return last


def _champion_before(client: "MlflowClient", name: str, current: int) -> tuple[int, list[str]]:
    """Return the last champion before `current` that exists, and what became of those in between, a text each."""
    gone: list[str] = []
    for number in champions_before(audit_trail(client, name), current):
        version = find(client, name, number)
        if version and is_on_disk(client, version):
            return number, gone
        gone.append(f"version {number} " + ("has lost its files" if version else "was deleted"))
    if not gone:
        raise UserError(f"{name} version {current} is the first {CHAMPION}; there is none to go back to")
    raise UserError(
        f"{name}: no {CHAMPION} before version {current} exists any more ({', '.join(gone)});"
        " run `gpt register` and `gpt promote` with a model that does"
    )


def _number(version: "ModelVersion | None") -> int | None:
    return None if version is None else int(version.version)


def _now() -> str:
    return datetime.now(UTC).strftime(TIME)


def _time_after(last: str) -> str:
    """Return the time, or the first moment after `last` if that is not over yet by this machine's clock."""
    now = _now()
    if now > last:
        return now
    return (datetime.strptime(last, TIME) + timedelta(microseconds=1)).strftime(TIME)
