"""Files of runs and models, where MLflow keeps them: how large they are, whether they are ours to remove, and removing them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient


def size_of(client: "MlflowClient", place: str) -> int:
    """Return the bytes of the artifacts at a place; 0 for what is not there."""
    if (local := _local(place)) is not None:
        return sum(file.stat().st_size for file in local.rglob("*") if file.is_file())
    repository, folders, size = _repository(client, place), [""], 0
    while folders:
        for entry in repository.list_artifacts(folders.pop() or None):
            folders += [entry.path] if entry.is_dir else []
            size += entry.file_size or 0
    return size


def why_elsewhere(client: "MlflowClient", place: str) -> str:
    """Return why files of a local store are not to be touched, "" if they are its own: a copied project reads the original's."""
    local, database = _local(place), store.database_file(client.tracking_uri)
    if local is None or database is None or database.resolve().parent in local.resolve().parents:
        return ""
    return f"its files lie in {local}, which is not this project's"


def delete_files(client: "MlflowClient", place: str) -> None:
    """Remove the artifacts at a place; what is gone already is no error."""
    local = _local(place)
    if local is None or local.exists():
        _repository(client, place).delete_artifacts()


def database_of(client: "MlflowClient") -> Any:
    """Return the store itself where it is a database that we reach; None for a server's, which lets no client purge."""
    backend = client._tracking_client.store
    return backend if hasattr(backend, "_hard_delete_run") else None


def unless_gone(call: Callable[[], object]) -> None:
    """Remove something from the store; another may have done it in this moment."""
    from mlflow.exceptions import MlflowException

    try:
        call()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _repository(client: "MlflowClient", place: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(place, tracking_uri=client.tracking_uri)


def _local(place: str) -> Path | None:
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    return Path(local_file_uri_to_path(place)) if is_local_uri(place) else None
