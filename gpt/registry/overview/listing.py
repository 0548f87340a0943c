"""The versions of a registered model at a glance: what `gpt models` shows, and the registered model's page in MLflow."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpt.errors import UserError
from gpt.registry.lineage import STARTED_FROM
from gpt.registry.trail import BY_HAND, PROMOTED, RESTORED, audit_trail
from gpt.registry.versions import CHAMPION, find, find_model
from gpt.secrets.hiding import redact
from gpt.tracking.pages.markdown import align

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_PAGE = 1000
FIGURE_TAG = "figure"
"Tag of a fine-tuned version: its main figure, as `accuracy 0.9660`."
CENTRED_TAG = "benchmarks_centred"
"Tag of a version: mean over the benchmarks of how far accuracy is above chance, 1 being all right."


@dataclass(frozen=True)
class Row:
    """A version; a text is empty where nothing is known, as of versions that others or earlier releases made."""

    version: int
    aliases: tuple[str, ...]
    bits_per_byte: float | None
    "Of the test documents."
    centred: float | None
    data_sha256: str
    commit: str
    changed: bool
    registered: str
    "UTC, as in 2026-11-26T12:00:00Z."
    verdict: str
    "The last one on it; `replaced` of one that was the champion and is it no more."
    reason: str
    figure: str = ""
    "The main one of a fine-tuned version, with its name."
    started_from: str = ""
    "What its training began with, if not with random weights."

    @property
    def bits(self) -> str:
        return "" if self.bits_per_byte is None else f"{self.bits_per_byte:.4f}"

    @property
    def benchmarks(self) -> str:
        return "" if self.centred is None else f"{self.centred:+.3f}"

    @property
    def aliases_text(self) -> str:
        return " ".join(f"@{alias}" for alias in self.aliases)

    @property
    def day(self) -> str:
        return self.registered[:10]


@dataclass(frozen=True)
class Decision:
    """What was decided about a version; `previous` was the champion until then."""

    time: str
    version: int
    verdict: str
    previous: int | None
    reason: str


@dataclass(frozen=True)
class Overview:
    """The newest versions of a model, those with an alias among them, and the decisions on it, the last first."""

    name: str
    rows: tuple[Row, ...]
    decisions: tuple[Decision, ...]
    more: bool
    "There are older versions."
    description: str = ""
    "Of the registered model, as MLflow has it."


def read_overview(client: "MlflowClient", name: str, limit: int = 0, *, history: bool = True) -> Overview:
    """Return the newest `limit` versions (0: all) and those that have an alias; without `history` no decisions.

    Requests are one for the model, one for a thousand versions or decisions, and one for each older version with an alias.
    Raises `UserError` if there is no such registered model.
    """
    model = find_model(client, name)
    if model is None:
        raise UserError(f"{name}: no such registered model, nothing has been registered yet; run `gpt register`")
    versions, more = _newest(client, name, limit)
    aliases: dict[int, list[str]] = {}
    for alias, number in sorted(model.aliases.items()):
        aliases.setdefault(int(number), []).append(alias)
    shown = {int(version.version) for version in versions}
    kept = [version for number in aliases if number not in shown and (version := find(client, name, number))]
    rows = [_row(version, tuple(aliases.get(int(version.version), ()))) for version in (*versions, *kept)]
    rows.sort(key=lambda row: row.version, reverse=True)
    decisions = read_decisions(client, name) if history else ()
    return Overview(name, tuple(rows), decisions, more, model.description or "")


def read_decisions(client: "MlflowClient", name: str) -> tuple[Decision, ...]:
    """Return the decisions of the audit trail, the last first."""
    return tuple(
        Decision(event.time, event.version, event.verdict, event.previous_version, redact(event.reason))
        for event in reversed(audit_trail(client, name))
    )


def show(overview: Overview, *, history: bool = False, now: datetime | None = None, width: int | None = None) -> str:
    """Return the table for a terminal of `width` columns: it leaves out columns, the least needed first, rather than wrap."""
    width = shutil.get_terminal_size().columns if width is None else width
    now = datetime.now(UTC) if now is None else now
    columns: dict[str, Callable[[Row], str]] = {
        "version": lambda row: str(row.version),
        "aliases": lambda row: row.aliases_text,
        "figure": lambda row: row.figure,
        "bits/byte": lambda row: row.bits,
        "verdict": lambda row: row.verdict,
        "age": lambda row: _age(row.registered, now),
        "benchmarks": lambda row: row.benchmarks,
        "started from": lambda row: row.started_from,
        "commit": lambda row: row.commit[:8] + ("+" if row.changed else ""),
        "data": lambda row: row.data_sha256[:8],
    }
    kinds_of = ("figure", "bits/byte", "benchmarks", "started from")  # of some models only
    columns = {
        name: cell for name, cell in columns.items() if name not in kinds_of or any(cell(row) for row in overview.rows)
    }
    lines = [f"models:/{overview.name}"]
    lines += align(list(columns), [[cell(row) or "-" for cell in columns.values()] for row in overview.rows], width)
    if overview.more:
        lines.append("older ones: gpt models --limit 0")
    if any(row.changed for row in overview.rows):
        lines.append("+ with uncommitted changes, which the version keeps as a patch")
    if history:
        lines += ["", "decisions, the last first"]
        lines += [line for one in overview.decisions for line in tell(one)] or ["none"]
    return "\n".join(lines)


def to_json(overview: Overview, *, history: bool = False) -> str:
    """Return the same as JSON: {name, versions, more} and, if asked for, decisions."""
    value: dict[str, Any] = {"name": overview.name, "versions": [asdict(row) for row in overview.rows]}
    value["more"] = overview.more
    if history:
        value["decisions"] = [asdict(one) for one in overview.decisions]
    return json.dumps(value, indent=2, ensure_ascii=False)


def _standing(verdict: str, aliases: tuple[str, ...]) -> str:
    was_made_champion = verdict in (PROMOTED, RESTORED, BY_HAND)
    return "replaced" if was_made_champion and CHAMPION not in aliases else verdict


def tell(one: Decision) -> list[str]:
    """Return a decision as two lines: what, and why."""
    was = "" if one.previous is None else f" (the champion was version {one.previous})"
    return [f"{one.time[:19].replace('T', ' ')}  version {one.version} {one.verdict}{was}", f"    {one.reason}"]


def _newest(client: "MlflowClient", name: str, limit: int) -> "tuple[list[ModelVersion], bool]":
    found: list[ModelVersion] = []
    token = None
    while True:
        left = limit - len(found) if limit else _PAGE
        page = client.search_model_versions(
            f"name = '{name}'", min(left, _PAGE), order_by=["version_number DESC"], page_token=token
        )
        found += page
        token = page.token
        if not token or (limit and len(found) >= limit):
            return found, bool(token)


def _row(version: "ModelVersion", aliases: tuple[str, ...]) -> Row:
    tags = {key: redact(str(value)) for key, value in version.tags.items()}
    registered = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return Row(
        version=int(version.version),
        aliases=aliases,
        bits_per_byte=_number(tags.get("test_bits_per_byte")),
        centred=_number(tags.get(CENTRED_TAG)),
        figure=tags.get(FIGURE_TAG, ""),
        started_from=tags.get(STARTED_FROM, ""),
        data_sha256=_known(tags.get("data_sha256")),
        commit=_known(tags.get("git_commit")),
        changed=tags.get("git_dirty") == "true",
        registered=registered.strftime("%Y-%m-%dT%H:%M:%SZ"),
        verdict=_standing(tags.get("promotion.verdict", ""), aliases),
        reason=tags.get("promotion.reason", ""),
    )


def _age(registered: str, now: datetime) -> str:
    """Return how long ago that was, in one unit."""
    seconds = max(0.0, (now - datetime.strptime(registered, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _known(value: str | None) -> str:
    return "" if value is None or value == "none" else value
