"""The weights that a version started from, brought to the place where it is made again, where DVC has not got them.

The version's own stage brings them, told what its record says: the registered version by its number, whatever an alias names now,
or a folder of the project that holds what it held then. So they are those of then, or there is one clear error.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json, write_json
from gpt.registry.initial.origin import origin_of
from gpt.registry.record import Record
from gpt.registry.reproduction.place import Place, lend
from gpt.registry.reproduction.stages import failure, run_dvc
from gpt.sources.local import content_hash
from gpt.tracking import store

STAGE = "fetch_weights"

Json = dict[str, Any]


def bring_initial(place: Place, record: Record, tell: Callable[[str], object]) -> bool:
    """Let the worktree's `fetch_weights` bring what the version started from; return False if it started from scratch.

    Raises `UserError` if nobody has these weights any more, `StageFailed` if the registry or the stage fails.
    """
    start: Json = record.values["parents"].get("started_from") or {}
    origin = origin_of(start)
    if origin is None:
        return False
    recorded = record.values["inputs"].get(STAGE, {}) | {"origin": {"init_from": start["init_from"], **origin}}
    inputs = place.project / paths.INPUTS
    inputs.mkdir(parents=True, exist_ok=True)
    write_json(inputs / f"{STAGE}.json", recorded)  # which the stage believes
    with _lent_folder(place, origin):
        code, said = run_dvc(place, "repro", "--single-item", STAGE, MLFLOW_TRACKING_URI=store.tracking_uri())
    if code:
        raise failure(said, code)
    named = start.get("uri") or start["init_from"]
    found = read_json(place.project / paths.INITIAL / paths.INITIAL_SOURCE, "run this again", ("weights_sha256",))
    if found["weights_sha256"] != start["weights_sha256"]:
        raise UserError(
            f"{place.uri}: started from {named}, weights {start['weights_sha256']}, which has {found['weights_sha256']} now;"
            f" {_bring_back('those')}"
        )
    tell(f"{paths.INITIAL}: from {named}, verified")
    return True


@contextmanager
def _lent_folder(place: Place, origin: Json) -> Iterator[None]:
    """Let the worktree find a folder of the project while it is copied, and no longer: training removes old checkpoints in its own.

    Raises `UserError` if it does not hold any more what it held then.
    """
    if origin["kind"] != "folder":
        yield
        return
    from gpt.training.checkpoints.fingerprint import load_fingerprint  # imports torch

    named = Path(origin["path"])
    here, there = place.origin / named.expanduser(), Path(os.path.normpath(place.project / named.expanduser()))
    folder = there if there.exists() else here
    if (found := content_hash(folder)) != origin["content"]:
        what = "which holds other files now" if found else "which is gone"
        raise UserError(f"{place.uri}: started from {folder}, {what}; {_bring_back('it')}")
    if load_fingerprint(here.parent):  # a run's checkpoint, which is one with what lies beside it
        named, here, there = named.parent, here.parent, there.parent
    lend(place.origin, place.project, place.root, named)
    try:
        yield
    finally:
        if there.is_symlink() and there.readlink() == here.resolve():
            there.unlink()


def _bring_back(what: str) -> str:
    return f"DVC has {paths.INITIAL} of then neither in its cache nor in a remote: bring {what} back, or `dvc pull` where they are"
