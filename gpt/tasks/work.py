"""Where a stage keeps what it has done, so that a stopped one goes on: beside its output, until that is whole.

The folder says what it was made with (settings, inputs, the stage's code, versions of its libraries). Made with something else
it is not gone on with, but set aside: what a person changes they may change back.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt.code import describe_differences, stage_identity
from gpt.errors import UserError
from gpt.files import fsync_path, sha256_json, write_json
from gpt.locks import try_lock

IDENTITY = "identity.json"
_SHORT = 12  # digits of an identity in a folder's name

Identity = dict[str, dict[str, Any]]

_log = logging.getLogger(__name__)


@contextmanager
def work_folder(output: Path, stage: str, settings: dict[str, Any], inputs: dict[str, str]) -> Iterator[Path]:
    """Yield `.<output>.work` beside `output`: as the last run left it if it was made with the same, else empty.

    `settings` are values by their key in params.yaml, `inputs` hashes by path. The folder is removed in the end; after an error
    or a kill it stays, and the next run goes on with it. One that was made with something else becomes `.<output>.work.<identity>`,
    with a warning that says what differs; it is taken up again when its identity comes back, and one such folder is kept.
    Raises `UserError` if another process makes `output`.
    """
    identity: Identity = {"settings": settings, "inputs": inputs, **stage_identity(stage)}
    folder = output.parent / f".{output.name}.work"
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = try_lock(output.parent / f"{folder.name}.lock")  # stays: who unlinks a lock may unlink another's
    if lock is None:
        raise UserError(f"{output}: another process is making it; wait for it or stop it")
    with lock:
        _take_up(folder, json.loads(json.dumps(identity)))  # as it comes back from a file: tuples are lists
        yield folder
        remove_work(folder)


def remove_work(folder: Path) -> None:
    """Remove a folder of work, its identity first: one that was removed in part must not be gone on with."""
    if folder.exists():
        (folder / IDENTITY).unlink(missing_ok=True)
        fsync_path(folder)
        shutil.rmtree(folder)


def has_identity(folder: Path, identity: Identity) -> bool:
    """Tell whether a folder of work was made with this very identity."""
    return read_identity(folder) == identity


def read_identity(folder: Path) -> Identity | None:
    """Return what a folder of work was made with, None if it does not say."""
    try:
        return json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def begin_work(folder: Path, identity: Identity) -> None:
    """Make an empty folder of work that says what it is made with."""
    folder.mkdir(parents=True)
    write_json(folder / IDENTITY, identity)


def _take_up(folder: Path, identity: Identity) -> None:
    """Make `folder` one of this identity: that which is there, else that which was set aside, else a new one."""
    if has_identity(folder, identity):
        return
    kept = [path for path in folder.parent.glob(f"{folder.name}.*") if path.is_dir()]
    wanted = next((path for path in kept if has_identity(path, identity)), None)
    if folder.exists():
        _set_aside(folder, identity, [path for path in kept if path != wanted])
    if wanted is None:
        begin_work(folder, identity)
    else:
        wanted.rename(folder)
        _log.warning("%s: goes on with the work that was set aside as %s", folder, wanted.name)


def _set_aside(folder: Path, identity: Identity, older: list[Path]) -> None:
    """Rename a folder of work that was made with something else, say what differs, and remove what was set aside before."""
    before = read_identity(folder)
    if not any(folder.glob("tasks/*/completions/*")):  # nothing in it is done
        remove_work(folder)
        return
    if before is None:
        _log.warning("%s: does not say what it was made with; it is removed, and the work begins anew", folder)
        remove_work(folder)
        return
    for path in older:
        _log.warning("%s: removed, since one such folder is kept", path)
        remove_work(path)
    aside = folder.with_name(f"{folder.name}.{sha256_json(before)[:_SHORT]}")
    folder.rename(aside)
    lines = (f"  {line}" for line in describe_differences(before, identity))
    _log.warning(
        "%s: unfinished work was made with something else, so the work begins anew:\n%s\n"
        "it is kept as %s and gone on with when that comes back; remove it if it will not",
        *(folder, "\n".join(lines), aside),
    )
