"""Finding registered versions, named as `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `@ALIAS`, and their files."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gpt.errors import UserError
from gpt.files import atomic_folder, sha256_file
from gpt.locks import locked
from gpt.paths import cache_folder
from gpt.tracking import store
from gpt.tracking.location import beside

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

_ATTEMPTS = 5
# What PostgreSQL, sqlite and MySQL say where two set what was not there, at the same moment: MLflow looks first, then inserts.
_SET_AT_ONCE = ("UniqueViolation", "UNIQUE constraint failed", "Duplicate entry")
# Aliases: the newest version that was offered, one that has passed the gate and waits, and the one in service.
CANDIDATE = "candidate"
CHALLENGER = "challenger"
CHAMPION = "champion"
# Tag of a version that `gpt rollback` took out of service, with the time; it stays until a person deletes it.
ROLLED_BACK_TAG = "promotion.rolled_back"
# Where a version keeps the model folder, inside its MLflow model.
MODEL_FOLDER = "artifacts/base"
# And what it was judged on, with its scores: gpt/registry/frozen.py.
EVALUATION_FOLDER = "artifacts/evaluation"
_URI = re.compile(r"(?:models:/(?P<name>[^/@]+))?(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
_LOCK_SECONDS = 60.0

logger = logging.getLogger(__name__)


def is_registry_uri(spec: str) -> bool:
    """Whether `spec` names a registered model rather than a folder."""
    return spec.startswith(("models:", "@"))


def find_version(client: "MlflowClient", spec: str, default_name: str | None = None) -> "ModelVersion":
    """Return the version that a URI names; `@ALIAS` alone is one of `default_name`'s.

    Raises `UserError` for a URI of another form and for a name, version or alias that does not exist.
    """
    match = _URI.fullmatch(spec)
    name = (match["name"] or default_name) if match else None
    if match is None or name is None:
        raise UserError(f"{spec}: not a registered model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    found = (
        version_of_alias(client, name, match["alias"]) if match["alias"] else find(client, name, int(match["version"]))
    )
    if found is None:
        raise UserError(f"{spec}: not in {client.tracking_uri}; it has {_listing(client, name)}")
    return found


def fixed_version(spec: str, default_name: str) -> tuple[str, int] | None:
    """Return name and number of a version that a URI names by its number, None for any other: that is nobody's to look up."""
    match = _URI.fullmatch(spec)
    return (match["name"] or default_name, int(match["version"])) if match and match["version"] else None


def version_of_alias(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """Return the version that an alias points to, None if there is no such alias or model."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if _is_absent(error):
            return None
        raise


def registered_alias(name: str, aliases: Sequence[str]) -> str | None:
    """Return the URI of the first of `aliases` that a model has; None if it has none, or there is nobody to ask."""
    try:
        client = store.existing_client()
        with store.store_errors():
            held = (alias for alias in aliases if version_of_alias(client, name, alias))
            return next((f"models:/{name}@{alias}" for alias in held), None)
    except UserError as error:
        logger.info("no registered model is offered: %s", error)
        return None


def find(client: "MlflowClient", name: str, number: int) -> "ModelVersion | None":
    """Return a version by its number, None if there is no such version or model."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        if _is_absent(error):
            return None
        raise


def find_model(client: "MlflowClient", name: str) -> "RegisteredModel | None":
    """Return a registered model, None if there is no such."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if _is_absent(error):
            return None
        raise


def all_versions(client: "MlflowClient", name: str) -> "list[ModelVersion]":
    """Return all versions of a registered model, the newest first."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version), reverse=True)


def versions_of_weights(client: "MlflowClient", sha256: str) -> "list[ModelVersion]":
    """Return the versions of any registered model that have these weights."""
    return list(client.search_model_versions(f"tags.weights_sha256 = '{sha256}'"))


def resolve_model(spec: str, default_name: str | None = None) -> Path:
    """Return the folder, as `load_model` takes it, of a path or a registered version.

    A version on a server is downloaded once and kept in the user's cache; its weights must have the version's hash.
    Raises `UserError` if the version does not exist, is not a GPT of this project's kind, or is damaged.
    """
    if not is_registry_uri(spec):
        return Path(spec)
    client = store.existing_client()
    with store.store_errors():
        return model_folder(client, find_version(client, spec, default_name))


def model_folder(client: "MlflowClient", version: "ModelVersion") -> Path:
    """Return the local folder of a version's model; see `resolve_model`."""
    uri = f"models:/{version.name}/{version.version}"
    expected = version.tags.get("weights_sha256")
    if expected is None:
        raise UserError(f"{uri}: not registered by `gpt register`; it has no weights_sha256")
    source = client.get_model_version_download_uri(version.name, version.version)
    if (local := _local_path(client, source)) is not None:
        folder = local / MODEL_FOLDER
        if not folder.is_dir():
            raise UserError(f"{uri}: its files are not in {folder}; bring them back, or register the model again")
    else:
        folder = _downloaded(client, source, MODEL_FOLDER)
    weights = folder / "model.safetensors"
    if not weights.exists() or sha256_file(weights) != expected:
        raise UserError(f"{weights}: not the weights of {uri} (damaged or replaced); delete {folder} and try again")
    return folder


def evaluation_folder(client: "MlflowClient", version: "ModelVersion") -> Path | None:
    """Return the local folder of what a version was judged on, None if it was registered without."""
    source = client.get_model_version_download_uri(version.name, version.version)
    if (local := _local_path(client, source)) is not None:
        folder = local / EVALUATION_FOLDER
        return folder if folder.is_dir() else None
    from mlflow.artifacts import list_artifacts

    listed = list_artifacts(f"{source}/{Path(EVALUATION_FOLDER).parent}", tracking_uri=client.tracking_uri)
    if not any(Path(entry.path).name == Path(EVALUATION_FOLDER).name for entry in listed):
        return None
    return _downloaded(client, source, EVALUATION_FOLDER)


def is_on_disk(client: "MlflowClient", version: "ModelVersion") -> bool:
    """Whether a version's files are where a local store keeps them; a server is trusted to have them."""
    local = _local_path(client, client.get_model_version_download_uri(version.name, version.version))
    return local is None or (local / MODEL_FOLDER).is_dir()


def why_gone(client: "MlflowClient", name: str, number: int) -> str | None:
    """Return why a version cannot be used any more, None if it can."""
    version = find(client, name, number)
    if version is None:
        return "was deleted"
    return None if is_on_disk(client, version) else "has lost its files"


@contextmanager
def registry_lock() -> Iterator[None]:
    """Let one process of this machine at a time change a local registry; a server's has no such lock."""
    file = store.database_file(store.tracking_uri())
    if file is None:
        yield
        return
    path = file.resolve().with_name(file.name + ".registry.lock")
    with locked(
        path, _LOCK_SECONDS, lambda who: f"{path}: held by a `gpt register` or `gpt promote` ({who}); wait for it"
    ):
        yield


def _is_absent(error: Exception) -> bool:
    # A missing alias is INVALID_PARAMETER_VALUE in a database store; a missing model, RESOURCE_DOES_NOT_EXIST.
    code = getattr(error, "error_code", "")
    return code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and "not found" in str(error))


def _listing(client: "MlflowClient", name: str) -> str:
    """Return which models or versions there are, for an error message."""
    versions = all_versions(client, name)
    if not versions:
        names = sorted(model.name for model in client.search_registered_models(max_results=20))
        return "the models " + ", ".join(names) if names else "no models yet; run `gpt register`"
    aliases = client.get_registered_model(name).aliases
    shown = ", ".join(f"@{alias} (version {number})" for alias, number in sorted(aliases.items()))
    numbers = ", ".join(str(version.version) for version in reversed(versions[:20]))
    return f"version {numbers} of {name}" + (f"; {shown}" if shown else "")


def _local_path(client: "MlflowClient", uri: str) -> Path | None:
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if not is_local_uri(uri):
        return None
    path, database = Path(local_file_uri_to_path(uri)), store.database_file(client.tracking_uri)
    return beside(database, path) if database else path


def _downloaded(client: "MlflowClient", source: str, part: str) -> Path:
    """Return a folder of a version in the user's cache, keyed by its address: a version's files never change."""
    from mlflow.artifacts import download_artifacts

    address = f"{client.tracking_uri} {source}" + ("" if part == MODEL_FOLDER else f" {part}")
    key = hashlib.sha256(address.encode()).hexdigest()[:32]
    target = cache_folder("models") / key
    if not target.exists():
        logger.info("downloading %s to %s", source, target)
        with atomic_folder(target) as folder:
            download_artifacts(f"{source}/{part}", dst_path=str(folder), tracking_uri=client.tracking_uri)
    return target / Path(part).name


def set_shared(set_it: Callable[..., None], *what: str) -> None:
    """Set a tag or an alias, again if another process set the same one at the same moment: then it is there, and is replaced."""
    from mlflow.exceptions import MlflowException

    for attempt in range(_ATTEMPTS):
        try:
            set_it(*what)
            return
        except MlflowException as error:
            if attempt == _ATTEMPTS - 1 or not any(text in str(error) for text in _SET_AT_ONCE):
                raise
