"""Which weights `train.init_from` names now. An alias is no pure input: it is resolved to its version before any stage runs."""

import logging
import os
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

# A training reads these folders and writes the first: after it, it would have another input, and never be done.
_OWN = (paths.BASE_MODEL, paths.INITIAL)

Json = dict[str, Any]

logger = logging.getLogger(__name__)


def describe_origin(params: Params, initial: Path = paths.INITIAL) -> Json:
    """Return what `train.init_from` names: a registered version by its number, a folder by its content.

    Where an alias cannot be looked up or a folder is gone, the weights that are in `initial` already stand for it, with a warning.
    Raises `UserError` if there are none, or for what is neither.
    """
    named = params.train.init_from
    if named == SCRATCH:
        return {"init_from": SCRATCH}
    try:
        origin = _of_version(params) if is_registry_uri(named) else _of_folder(Path(named).expanduser())
    except _Unknown as error:
        origin = _as_before(named, initial)
        if origin is None:
            raise UserError(f"params.yaml: train.init_from = {named}: {error}{error.advice}") from None
        logger.warning("train.init_from = %s: %s; %s holds it, and stands for it", named, error, initial)
    return {"init_from": named, **origin}


def decided_origin(params: Params, inputs: Path = paths.INPUTS) -> Json | None:
    """Return what `gpt inputs` found when DVC began, if DVC runs this; None if a person does.

    An alias that has moved since is the next run's: else DVC would remember the new weights as what the old version gives.
    """
    path = inputs / "fetch_weights.json"
    if not os.environ.get("DVC_STAGE") or not path.is_file():
        return None
    origin = as_object(as_object(lenient_json(path.read_bytes())).get("origin"))
    return origin if origin.get("init_from") == params.train.init_from else None


class _Unknown(Exception):
    """What is named cannot be looked at now; `advice` is for who has no weights that could stand for it."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def _of_version(params: Params) -> Json:
    named, name = params.train.init_from, params.register_.name
    if version := fixed_version(named, name):
        return {"kind": "version", "name": version[0], "version": version[1]}  # it never changes: nobody is asked
    try:
        client = store.existing_client()
    except UserError as error:
        raise _Unknown(str(error)) from error
    try:
        with store.store_errors():
            found = find_version(client, named, name)
    except store.StoreFailed as error:  # after it had answered that it is there
        raise _Unknown(str(error)) from error
    return {"kind": "version", "name": found.name, "version": int(found.version)}


def _of_folder(folder: Path) -> Json:
    if any(folder.resolve() == own.resolve() for own in _OWN):
        raise UserError(
            f"params.yaml: train.init_from = {folder}: training itself writes there; copy the model to another folder, or"
            " register it and name models:/NAME/VERSION"
        )
    there = folder_of(folder)
    if not there.is_dir():
        why = "no such folder" if not there.exists() else "no folder, as a model is"
        raise _Unknown(why, "; name the folder of a model, models:/NAME/VERSION, models:/NAME@ALIAS, or scratch")
    return {"kind": "folder", "path": folder.as_posix(), "content": content_hash(there)}


def folder_of(named: Path) -> Path:
    """Return where a folder lies: in a copy that DVC runs an experiment in, what Git does not track is with the original."""
    return named if named.exists() else paths.kept(named)


def _as_before(named: str, initial: Path) -> Json | None:
    """Return what source.json says of the weights that were brought for the same name, None if there are none."""
    if not (initial / paths.INITIAL_SOURCE).is_file():
        return None
    source = read_json(initial / paths.INITIAL_SOURCE, "run `gpt fetch weights` again")
    return origin_of(source) if source.get("init_from") == named else None


def origin_of(source: Json) -> Json | None:
    """Return the version or the folder that a source.json says its weights are of; None if it names neither."""
    keys = {"version": ("kind", "name", "version"), "folder": ("kind", "path", "content")}.get(source.get("kind", ""))
    return None if keys is None else {key: source[key] for key in keys}
