"""What training has left on this machine and how to go on: `gpt checkpoints`."""

import time
from collections.abc import Iterator
from pathlib import Path

from gpt.errors import UserError
from gpt.params.project import Params
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.adoption import read_adopted
from gpt.training.checkpoints.fingerprint import Fingerprint, describe_differences, fingerprint, load_fingerprint
from gpt.training.checkpoints.stable import STABLE


def describe_all(root: Path, params: Params) -> Iterator[str]:
    """Yield lines about every run with checkpoints below `root`: holder, run, and each checkpoint's step, age, size and health.

    Every byte is read to tell whether it is whole. `params` are those of now, which tell what `gpt pretrain` would go on with.
    """
    current = _current_fingerprint(params)
    for folder in sorted(path for path in root.glob("*") if path.is_dir() and path.name != STABLE):
        holder = checkpoints.holder(folder)
        yield f"{folder}: {f'{holder} trains here' if holder else 'nobody trains here'}"
        yield from _describe_checkpoints(folder)
        if not checkpoints.steps(folder):
            yield "  no checkpoint yet"
        if holder:
            continue
        if current and folder.name == current.id:
            yield "  to go on from here: gpt pretrain"
        else:
            yield from _differences(folder, current)
        yield f"  to delete it: rm -r {folder}"
    yield from _describe_stable(root / STABLE)


def _describe_stable(root: Path) -> Iterator[str]:
    """Yield lines about the states before their decay that runs have left."""
    for folder in sorted(path for path in root.glob("*") if checkpoints.steps(path)):
        yield f"{folder}: the state before its decay that a run has left"
        yield from _describe_checkpoints(folder)
        if read_adopted(folder):
            yield f"  its run took over another's checkpoint; to go on from here all the same: gpt pretrain --adopt {folder}"
        else:
            yield "  a longer run, or one that falls otherwise, begins with it by itself if all before that is the same"
        yield f"  to delete it: rm -r {folder}"


def _describe_checkpoints(folder: Path) -> Iterator[str]:
    """Yield a line about each checkpoint in a folder, the newest first; none about one that is removed meanwhile."""
    for path in reversed(checkpoints.steps(folder)):
        try:
            yield f"  {_describe(path)}"
        except FileNotFoundError:
            if path.exists():
                raise


def _differences(folder: Path, current: Fingerprint | None) -> Iterator[str]:
    """Yield what differs between the run in a folder and the one that would be trained now."""
    before = load_fingerprint(folder)
    if before is None or current is None:
        yield "  of other data, code, versions, model or train settings than now; with those, `gpt pretrain` goes on from here"
        return
    yield "  differs from what would be trained now:"
    yield from (f"    {line}" for line in describe_differences(before, current))
    yield f"  to go on from here all the same: gpt pretrain --adopt {folder}"


def _describe(path: Path) -> str:
    files = [file.stat() for file in path.iterdir()]
    size = sum(file.st_size for file in files)
    age = time.time() - max((file.st_mtime for file in files), default=path.stat().st_mtime)
    if (other := checkpoints.other_format(path)) is not None:
        health = f"of format {other}, which this version of gpt cannot go on from"
    elif damage := checkpoints.find_damage(path):
        health = f"damaged: {damage}; the one before it is used"
    else:
        health = f"whole, run {checkpoints.run_of(path) or 'without a name'}"
    return f"step {checkpoints.step_of(path)}, {_age(age)} old, {size / 1e6:,.1f} MB, {health}"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} seconds"


def _current_fingerprint(params: Params) -> Fingerprint | None:
    try:
        return fingerprint(params)
    except (UserError, OSError):  # no data here: no run of now
        return None
