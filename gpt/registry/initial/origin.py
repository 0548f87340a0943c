"""Which weights `train.init_from`, or a recipe's `base`, names now.

An alias is no pure input: it is resolved to its version before any stage runs.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import as_object, lenient_json, read_json
from gpt.params.project import Params
from gpt.params.training import SCRATCH
from gpt.registry.versions import find_version, fixed_version, is_registry_uri
from gpt.sources.local import content_hash
from gpt.tracking import store

Json = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """Weights as somebody names them, and where that is written."""

    key: str
    "As in `params.yaml: train.init_from`."
    spec: str
    "A folder, models:/NAME@ALIAS, models:/NAME/VERSION, or scratch."
    model: str
    "What `@ALIAS` alone is an alias of."
    written_by: str
    "Who writes to the folders that may not be named."
    own: tuple[Path, ...]
    "Those folders: who reads what it writes is never done."
    output: Path
    "Where the weights are brought to."
    decided: Path
    "What `gpt inputs`, or `gpt finetune inputs`, wrote of them."


def named_by_params(params: Params, output: Path = paths.INITIAL) -> Named:
    """Return what `train.init_from` names."""
    return Named(
        "params.yaml: train.init_from",
        params.train.init_from,
        params.register_.name,
        "training itself",
        (paths.BASE_MODEL, paths.INITIAL),
        output,
        paths.INPUTS / "fetch_weights.json",
    )


def describe_origin(named: Named) -> Json:
    """Return what is named: a registered version by its number, a folder by its content.

    Where an alias cannot be looked up or a folder is gone, the weights that were brought already stand for it, with a warning.
    Raises `UserError` if there are none, or for what is neither.
    """
    if named.spec == SCRATCH:
        return {"init_from": SCRATCH}
    try:
        origin = _of_version(named) if is_registry_uri(named.spec) else _of_folder(named)
    except _Unknown as error:
        origin = _as_before(named)
        if origin is None:
            raise UserError(f"{named.key} = {named.spec}: {error}{error.advice}") from None
        key = named.key.rpartition(": ")[2]
        logger.warning("%s = %s: %s; %s holds it, and stands for it", key, named.spec, error, named.output)
    return {"init_from": named.spec, **origin}


def decided_origin(named: Named) -> Json | None:
    """Return what `gpt inputs` found when DVC began, if DVC runs this; None if a person does.

    An alias that has moved since is the next run's: else DVC would remember the new weights as what the old version gives.
    """
    if not os.environ.get("DVC_STAGE") or not named.decided.is_file():
        return None
    origin = as_object(as_object(lenient_json(named.decided.read_bytes())).get("origin"))
    return origin if origin.get("init_from") == named.spec else None


class _Unknown(Exception):
    """What is named cannot be looked at now; `advice` is for who has no weights that could stand for it."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def _of_version(named: Named) -> Json:
    if version := fixed_version(named.spec, named.model):
        return {"kind": "version", "name": version[0], "version": version[1]}  # it never changes: nobody is asked
    try:
        client = store.existing_client()
    except UserError as error:
        raise _Unknown(str(error)) from error
    try:
        with store.store_errors():
            found = find_version(client, named.spec, named.model)
    except store.StoreFailed as error:  # after it had answered that it is there
        raise _Unknown(str(error)) from error
    return {"kind": "version", "name": found.name, "version": int(found.version)}


def _of_folder(named: Named) -> Json:
    folder = Path(named.spec).expanduser()
    if any(folder.resolve() == own.resolve() for own in named.own):
        raise UserError(
            f"{named.key} = {folder}: {named.written_by} writes there; copy the model to another folder, or register it and name"
            " models:/NAME/VERSION"
        )
    there = folder_of(folder)
    if not there.is_dir():
        why = "no such folder" if not there.exists() else "no folder, as a model is"
        raise _Unknown(why, "; name the folder of a model, models:/NAME/VERSION, models:/NAME@ALIAS, or scratch")
    return {"kind": "folder", "path": folder.as_posix(), "content": content_hash(there)}


def folder_of(named: Path) -> Path:
    """Return where a folder lies: in a copy that DVC runs an experiment in, what Git does not track is with the original."""
    return named if named.exists() else paths.kept(named)


def _as_before(named: Named) -> Json | None:
    """Return what source.json says of the weights that were brought for the same name, None if there are none."""
    if not (named.output / paths.INITIAL_SOURCE).is_file():
        return None
    source = read_json(named.output / paths.INITIAL_SOURCE, "run `gpt fetch weights` again")
    return origin_of(source) if source.get("init_from") == named.spec else None


def origin_of(source: Json) -> Json | None:
    """Return the version or the folder that a source.json says its weights are of; None if it names neither."""
    keys = {"version": ("kind", "name", "version"), "folder": ("kind", "path", "content")}.get(source.get("kind", ""))
    return None if keys is None else {key: source[key] for key in keys}
