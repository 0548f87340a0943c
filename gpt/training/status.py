"""What training has left on this machine and how to go on: `gpt checkpoints`."""

import time
from collections.abc import Iterator
from pathlib import Path

from gpt import paths
from gpt.errors import UserError
from gpt.params.project import Params
from gpt.tokens.shards import data_id
from gpt.tokens.tokenizer import tokenizer_id
from gpt.training import checkpoint as checkpoints


def describe_all(root: Path, params: Params) -> Iterator[str]:
    """Yield lines about every run with checkpoints below `root`: holder, run, and each checkpoint's step, age, size and health.

    Every byte is read to tell whether it is whole. `params` are those of now, which tell what `gpt pretrain` would go on with.
    """
    current = _current_fingerprint(params)
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        holder = checkpoints.holder(folder)
        yield f"{folder}: {f'{holder} trains here' if holder else 'nobody trains here'}"
        found = checkpoints.steps(folder)
        for path in reversed(found):
            try:
                yield f"  {_describe(path)}"
            except FileNotFoundError:
                if path.exists():
                    raise
                # Its trainer has removed it meanwhile.
        if not found:
            yield "  no checkpoint yet"
        if holder:
            continue
        if folder.name == current:
            yield "  to go on from here: gpt pretrain"
        else:
            yield "  of other data, code, model or train settings than now; with those, `gpt pretrain` goes on from here"
        yield f"  to delete it: rm -r {folder}"


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


def _current_fingerprint(params: Params) -> str | None:
    try:
        return checkpoints.fingerprint(params, data_id(paths.TOKENS), tokenizer_id(paths.TOKENIZER))
    except (UserError, OSError):  # no data here: no run of now
        return None
