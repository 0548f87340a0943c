"""What may be removed and what has to stay: a pure function of what there is, so that it can be tested without a store.

The one rule: what something that stays needs, stays. Who collects the items says for each why it must stay whatever else (an alias,
a lock, its age), and by which names others need it; the rest follows.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """Something that takes room: a version with its files, a run's checkpoints, a folder of work."""

    name: str
    "As a person would name it; no two items have the same."
    part: str
    "Who removes it: versions, models, runs, checkpoints, cache, leftovers."
    size_bytes: int
    reason: str
    "What it is, and why nothing needs it unless something says so."
    stays: str = ""
    "Why it stays, whatever else; empty where nothing asks for it by itself."
    names: frozenset[str] = field(default=frozenset(), repr=False)
    "Other names by which it is needed: hashes, fingerprints."
    needs: frozenset[str] = field(default=frozenset(), repr=False)
    "Names of what it could not be used, or made again, without."
    shown: bool = True
    "Not of those of other projects, which are looked at for what they need alone."


@dataclass(frozen=True)
class Plan:
    """What goes, and what stays with the reason for it; both in the order in which they were collected."""

    free: tuple[Item, ...]
    kept: tuple[tuple[Item, str], ...]

    @property
    def freed_bytes(self) -> int:
        return sum(item.size_bytes for item in self.free)


def plan(items: Iterable[Item]) -> Plan:
    """Return what of the items may go: what nothing keeps, and nothing that is kept needs, at any number of steps."""
    items = tuple(items)
    known: dict[str, list[Item]] = {}
    for item in items:
        for name in {item.name, *item.names}:
            known.setdefault(name, []).append(item)
    why = {item.name: item.stays for item in items if item.stays}
    waiting = [item for item in items if item.stays]
    while waiting:
        needing = waiting.pop()
        for needed in (one for name in needing.needs for one in known.get(name, ())):
            if needed.name not in why:
                why[needed.name] = f"needed by {needing.name}"
                waiting.append(needed)
    return Plan(
        tuple(item for item in items if item.name not in why),
        tuple((item, why[item.name]) for item in items if item.name in why),
    )


@dataclass(frozen=True)
class Limits:
    """How long, and how many of what nothing asks for are kept all the same."""

    days: float
    versions: int
    "Newest versions of each registered model."

    def young(self, age_seconds: float) -> str:
        """Return why something of an age stays, "" if it is old enough to go."""
        return f"of the last {self.days:g} days" if age_seconds < self.days * 86_400 else ""


def days_of(age_seconds: float) -> str:
    """Return an age in words, as in `12 days old`."""
    days = max(0.0, age_seconds) / 86_400
    return f"{days:.0f} days old" if days >= 2 else f"{days * 24:.0f} hours old"


def first(reasons: Collection[str]) -> str:
    """Return the first reason that is one, "" if none is."""
    return next(filter(None, reasons), "")
