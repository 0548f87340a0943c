"""Where candidates are registered: under the model's own name or, where only some may promote, under a name beside it.

MLflow's permissions are per registered model, and to create a version is the same right as to set an alias. So with accounts the
training one writes to NAME-candidates, and whoever may write to NAME takes a candidate over before it is judged.
"""

import os
from typing import TYPE_CHECKING

from gpt.errors import UserError
from gpt.registry.versions import CANDIDATE, CHAMPION, ROLLED_BACK_TAG, all_versions, set_shared, version_of_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SUFFIX = "GPT_REGISTER_SUFFIX"
"The variable that says what follows NAME where candidates are registered; `make up` with accounts sets it."
_TAKEN_TAG = "candidate_of"
_OF_DECISIONS = "promotion."


def suffix() -> str:
    """Return what follows a model's name where its candidates are registered, "" where they go to the model itself."""
    return os.environ.get(SUFFIX, "").strip()


def offered_as(name: str) -> str:
    """Return the registered model to which candidates of `name` go."""
    return name + suffix()


def take_over(client: "MlflowClient", name: str) -> None:
    """Let the candidate that waits beside `name`, if there is one, be the candidate of `name`, as a version made now or before.

    It is the same MLflow model with the same record: what decisions have said of the candidate stays behind.
    """
    candidate = version_of_alias(client, offered_as(name), CANDIDATE) if suffix() else None
    if candidate is not None:
        ensure_registered_model(client, name)
        offer(client, _taken(client, name, candidate) or _take(client, name, candidate))


def offer(client: "MlflowClient", version: "ModelVersion") -> str | None:
    """Make the version the candidate unless it was rolled back or something newer waits; return the alias it holds."""
    number = int(version.version)
    candidate, champion = (version_of_alias(client, version.name, alias) for alias in (CANDIDATE, CHAMPION))
    if candidate and int(candidate.version) == number:
        return CANDIDATE
    if champion and int(champion.version) == number:
        return CHAMPION
    newer_waits = candidate is not None and int(candidate.version) > number
    if newer_waits or ROLLED_BACK_TAG in version.tags:
        return None
    set_shared(client.set_registered_model_alias, version.name, CANDIDATE, str(number))
    return CANDIDATE


def ensure_registered_model(client: "MlflowClient", name: str) -> None:
    """Make a registered model, unless it is there."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _taken(client: "MlflowClient", name: str, candidate: "ModelVersion") -> "ModelVersion | None":
    """Return the version of `name` that a candidate has become, if it has."""
    same = (version for version in all_versions(client, name) if version.source == candidate.source)
    return min(same, key=lambda version: int(version.version), default=None)


def _take(client: "MlflowClient", name: str, candidate: "ModelVersion") -> "ModelVersion":
    uri = f"{candidate.name}/{candidate.version}"
    model_id = candidate.tags.get("lineage", "").rpartition("/")[2]  # its record is named by the model's id
    if not model_id or not candidate.source:
        raise UserError(f"models:/{uri}: not registered by `gpt register`; delete it, or its alias {CANDIDATE}")
    tags = {key: value for key, value in candidate.tags.items() if not key.startswith(_OF_DECISIONS)}
    return client.create_model_version(
        name, candidate.source, candidate.run_id, tags | {_TAKEN_TAG: uri},
        model_id=model_id, description=candidate.description,
    )  # fmt: skip
