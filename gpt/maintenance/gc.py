"""`gpt gc`: what takes room and may go. It is collected, planned and shown; only `--apply` removes, part by part.

A part that cannot be looked at (a store that is away, DVC at work) is named and left as it is, and so is what it alone could say of
others: nothing is freed on a guess. What a kill leaves of a removal the next call finds and finishes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.locks import locked
from gpt.maintenance import cache, checkpoints, leftovers, registry, removal
from gpt.maintenance.plan import Item, Limits, Plan, plan
from gpt.maintenance.project import Project
from gpt.memory import in_units
from gpt.params.project import Params
from gpt.registry.record import Record
from gpt.registry.versions import registry_lock
from gpt.secrets.hiding import redact
from gpt.tracking import store

LOCK = Path(".cache/gc.lock")
_LOCK_SECONDS = 60.0


@dataclass
class Found:
    """What there is in a project, and what of it may go."""

    project: Project
    limits: Limits
    plan: Plan = field(default_factory=lambda: Plan((), ()))
    skipped: list[tuple[str, str]] = field(default_factory=list)
    "Parts that were not looked at, and why."
    store: registry.Registry | None = None
    failed: list[tuple[str, str]] = field(default_factory=list)
    "What should have been removed, and why it was not."
    removed: list[Item] = field(default_factory=list)

    def to_record(self) -> dict[str, Any]:
        """Return what there is as JSON."""

        def each(item: Item, why: str) -> dict[str, Any]:
            return {"name": item.name, "part": item.part, "bytes": item.size_bytes, "why": why}

        return {
            "free": [each(item, item.reason) for item in self.plan.free],
            "kept": [each(item, why) for item, why in self.plan.kept if item.shown],
            "skipped": [{"part": part, "why": why} for part, why in self.skipped],
            "failed": [{"name": name, "why": why} for name, why in self.failed],
            "bytes": self.plan.freed_bytes,
            "removed_bytes": sum(item.size_bytes for item in self.removed),
        }


def look(params: Params, limits: Limits) -> Found:
    """Find out what may go; nothing is changed. Raises `UserError` in a copy of the project that an experiment runs in."""
    if paths.main_project() != Path.cwd():
        raise UserError(f"{Path.cwd()}: a copy that DVC runs an experiment in; run this in {paths.main_project()}")
    found = Found(Project(params), limits)
    items: list[Item] = []
    with _part(found, "MLflow", "versions, models and deleted runs"):
        known = found.store = _look_at_store(found)
        items += known.items
        found.skipped += known.skipped
    with _part(found, "checkpoints", "they"):
        if found.store is None:
            raise UserError("versions may need them, and the store could not be asked")
        items += checkpoints.look(found.project, limits, found.store.began_with)
    with _part(found, "leftovers", "they"):
        items += _without_open_journals(list(leftovers.look(limits)), found)
    with _part(found, "DVC's cache", "its files"):
        items += cache.look(found.project, limits, _records(found, {item.name for item in plan(items).free}))
    found.plan = plan(items)
    return found


def collect(params: Params, limits: Limits) -> Found:
    """Remove what may go. What fails is noted, and the rest goes on. One at a time does so here."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with locked(LOCK, _LOCK_SECONDS, lambda who: f"{LOCK}: held by another `gpt gc` ({who}); wait for it"):
        # Nobody registers or promotes here between the look and the removal.
        with registry_lock() if _is_there() else nullcontext():
            found = look(params, limits)
            for item in found.plan.free:
                if item.part in ("versions", "models", "runs"):
                    _remove(found, item)
            _refresh(found)
        for item in found.plan.free:
            if item.part not in ("versions", "models", "runs"):
                _remove(found, item)
    return found


def show(found: Found, *, applied: bool) -> str:
    """Return what was found, and what became of it."""
    free, kept = found.plan.free, [(item, why) for item, why in found.plan.kept if item.shown]
    gone = found.removed if applied else free
    lines = ["removed:" if applied else "may go:"]
    lines += _rows((item.name, item.size_bytes, item.reason) for item in gone) if gone else ["  nothing"]
    if kept:
        lines += ["stays:", *_rows((item.name, item.size_bytes, why) for item, why in kept)]
    if found.skipped:
        lines += ["not looked at:", *(f"  {part}: {why}" for part, why in found.skipped)]
    if found.failed:
        lines += ["not removed:", *(f"  {name}: {why}" for name, why in found.failed)]
    freed = sum(item.size_bytes for item in gone)
    lines.append(
        f"{in_units(freed)} freed"
        if applied
        else f"{in_units(freed)} in {len(free)} thing(s); `gpt gc --apply` removes them"
        if free
        else "nothing to free"
    )
    return redact("\n".join(lines))


def _remove(found: Found, item: Item) -> None:
    try:
        match item.part:
            case "checkpoints":
                checkpoints.remove(item)
            case "leftovers":
                leftovers.remove_item(item)
            case "cache":
                records = _records(found, {item.name for item in found.removed})
                cache.remove(item, found.project, found.limits, records)
            case _:
                assert found.store is not None, "what it holds was planned"
                with store.store_errors():
                    removal.remove(found.store, item)
    except (UserError, OSError) as error:
        found.failed.append((item.name, str(error)))
        return
    found.removed.append(item)


def _look_at_store(found: Found) -> registry.Registry:
    client = store.existing_client()
    with store.store_errors():
        return registry.look(client, found.project, found.limits)


def _is_there() -> bool:
    """Whether there is a store here; a lock would make a file beside one that is not."""
    file = store.database_file(store.tracking_uri())
    return file is None or file.exists()


def _records(found: Found, gone: set[str]) -> list[Record]:
    """Return the records of the versions that stay when some are gone; raise `UserError` if one of them is not known."""
    known = found.store
    if known is None:
        raise UserError("versions may name them, and the store could not be asked")
    for uri, why in known.unread.items():
        if uri not in gone:
            raise UserError(f"which of them {uri} names is not known ({why})")
    return [record for uri, record in known.records.items() if uri not in gone]


def _without_open_journals(items: list[Item], found: Found) -> list[Item]:
    """Return what is left over; journals only where it is known which runs go on in them."""
    if any(part == "checkpoints" for part, _ in found.skipped):
        return [item for item in items if not item.name.endswith(".jsonl")]
    return items


def _refresh(found: Found) -> None:
    """Let the pages of models whose versions went show those that are there."""
    from gpt.registry.overview.description import refresh_description

    names = {item.name.removeprefix("models:/").rpartition("/")[0] for item in found.removed if item.part == "versions"}
    for name in sorted(names):
        assert found.store is not None, "its versions were removed"
        refresh_description(found.store.client, name)


@contextmanager
def _part(found: Found, name: str, what: str) -> Iterator[None]:
    """Look at a part; if that cannot be done it is skipped, with the reason."""
    try:
        yield
    except (UserError, OSError) as error:
        found.skipped.append((name, f"{what} stay as they are: {error}"))


def _rows(rows: Iterable[tuple[str, int, str]]) -> Iterator[str]:
    told = [(name, in_units(size), why) for name, size, why in rows]
    widths = [max(len(row[column]) for row in told) for column in (0, 1)]
    for name, size, why in told:
        yield f"  {name:<{widths[0]}}  {size:>{widths[1]}}  {why}"
