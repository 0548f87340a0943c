"""Removing what a store holds: versions with their models, runs that were deleted; and what a killed removal has left.

A version appears last and goes first: what a kill leaves of it is a model with the tag `gpt.gc`, which the next `gpt gc` removes.
`mlflow gc` is not called: given runs, it purges every deleted experiment and model of the store as well, whoever's. Its own
functions are, on what the plan names.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt.errors import UserError
from gpt.maintenance.artifacts import database_of, delete_files, unless_gone
from gpt.maintenance.plan import Item
from gpt.maintenance.project import Project
from gpt.maintenance.registry import REMOVED_TAG, Registry, experiments_of, logged_models
from gpt.registry.versions import find, registry_lock
from gpt.tracking import store
from gpt.tracking.location import read_only

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


def remove(found: Registry, item: Item) -> None:
    """Remove a version, a model or a run; raise `UserError` if it has become something that stays meanwhile."""
    match item.part:
        case "versions":
            _remove_version(found, item.name)
        case "models":
            _remove_model(found.client, found.models[item.name])
        case _:
            _remove_run(found.client, item.name.removeprefix("runs:/"))


def half_removed(project: Project) -> Iterator[tuple[str, str]]:
    """Yield the models, each with the version that it was of, of which a killed removal has left something; [] without a store."""
    file = store.database_file(store.tracking_uri())
    if file is not None and not _knows_tag(file):
        return
    client = store.client()
    with store.store_errors():
        experiments = experiments_of(client, project)
        for model in logged_models(client, experiments, set(), None) if experiments else ():
            if (uri := model.tags.get(REMOVED_TAG)) and _version(client, uri) is None:
                yield model.model_id, uri


def finish_removal(model_id: str, uri: str) -> str:
    """Remove what is left of a model whose version is gone."""
    client = store.client()
    with store.store_errors(), registry_lock():
        if _version(client, uri) is not None:
            raise UserError(f"{uri} is there again")
        _remove_model(client, client.get_logged_model(model_id))
    return f"{uri}: the rest of its model was removed"


def _version(client: "MlflowClient", uri: str) -> "ModelVersion | None":
    name, _, number = uri.removeprefix("models:/").rpartition("/")
    return find(client, name, int(number))


def _knows_tag(file: Path) -> bool:
    """Whether a removal has begun in a local store; to ask MLflow takes seconds."""
    try:
        with read_only(file) as database:
            query = "select 1 from logged_model_tags where tag_key = ? limit 1"
            return database.execute(query, (REMOVED_TAG,)).fetchone() is not None
    except sqlite3.Error:
        return False  # none yet, or of another version of MLflow: `gpt doctor` says which


def _remove_version(found: Registry, uri: str) -> None:
    """Remove a version, then its model. Whoever has made it something since keeps it."""
    client, version = found.client, found.versions[uri]
    now = find(client, version.name, int(version.version))
    model = found.models.get(version.source or "") or _model_of(client, version)
    if now is not None:
        if now.aliases:
            raise UserError(f"it is @{', @'.join(now.aliases)} now, and stays")
        if model is not None:
            client.set_logged_model_tags(model.model_id, {REMOVED_TAG: uri})
        unless_gone(lambda: client.delete_model_version(version.name, version.version))
    if model is not None:
        _remove_model(client, model)


def _model_of(client: "MlflowClient", version: "ModelVersion") -> "LoggedModel | None":
    """Return the model of a version that was logged in an experiment which is none of the present names."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_logged_model(version.model_id) if version.model_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _remove_model(client: "MlflowClient", model: "LoggedModel") -> None:
    """Remove a model's files, then what the store knows of it: as long as it does, a kill leaves what the next call finds."""
    delete_files(client, model.artifact_location)
    unless_gone(lambda: client.delete_logged_model(model.model_id))
    if backend := database_of(client):
        unless_gone(lambda: backend._hard_delete_logged_model(model.model_id))


def _remove_run(client: "MlflowClient", run_id: str) -> None:
    if client.get_run(run_id).info.lifecycle_stage != "deleted":
        raise UserError("it was restored, and stays")
    backend = database_of(client)
    assert backend is not None, "runs of a server were skipped"
    delete_files(client, client.get_run(run_id).info.artifact_uri or "")
    unless_gone(lambda: backend._hard_delete_run(run_id))
