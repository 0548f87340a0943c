"""What `gpt gc` shows: a line for each thing that may go with its bytes and why, what stays and why, what was not looked at."""

from collections.abc import Iterable, Iterator

from gpt.maintenance.gc import Found
from gpt.memory import in_units
from gpt.secrets.hiding import redact


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


def _rows(rows: Iterable[tuple[str, int, str]]) -> Iterator[str]:
    told = [(name, in_units(size), why) for name, size, why in rows]
    widths = [max(len(row[column]) for row in told) for column in (0, 1)]
    for name, size, why in told:
        yield f"  {name:<{widths[0]}}  {size:>{widths[1]}}  {why}"
