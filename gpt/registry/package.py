"""Registering a model: one MLflow model that loads anywhere, one version that says what it was made from.

Running it twice does no harm: the same model from the same data and settings is the version that exists. A version
appears last and whole, with all its tags; what a failure leaves behind is a logged model that no version refers to.
"""

import dataclasses
import json
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt import paths
from gpt.params.project import Params
from gpt.registry.frozen import keeps_frozen
from gpt.registry.lineage import Lineage
from gpt.registry.overview.description import refresh_description
from gpt.registry.packaging.offer import ensure_registered_model, offer, offered_as
from gpt.registry.packaging.pretrained import Pretrained
from gpt.registry.packaging.registrable import Registrable, write_package
from gpt.registry.record import FOLDER, find_parents, write_record
from gpt.registry.versions import (
    CANDIDATE,
    CHALLENGER,
    CHAMPION,
    EVALUATION_FOLDER,
    all_versions,
    is_on_disk,
    registry_lock,
    version_of_alias,
)
from gpt.secrets.hiding import public_uri, redact_values
from gpt.tracking import store
from gpt.tracking.delivery import deliver_left_behind
from gpt.tracking.pages.figures import FIGURE_STEP

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_OTHER = f"; another version is the {CANDIDATE}"
# A version with all of these is the same model from the same data and settings, measured on the same documents.
_IDENTITY = ("model_sha256", "data_sha256", "params_sha256", "test_documents_sha256")


@dataclass(frozen=True)
class RegisteredModel:
    """A version of the registry; `alias` is the highest of champion, challenger and candidate that it holds, if any."""

    name: str
    version: int
    alias: str | None
    uri: str
    run_id: str
    tracking_uri: str
    experiment_id: str
    new: bool
    "Whether this call made it."

    def to_json(self) -> str:
        keys = ("name", "version", "alias", "uri", "run_id", "tracking_uri", "experiment_id")
        return json.dumps(redact_values({key: getattr(self, key) for key in keys}))

    def describe(self) -> str:
        """Return what became of it; of a candidate the gate has the last word."""
        what = "registered" if self.new else "exists already"
        role = "" if self.alias == CANDIDATE else f", the {self.alias}" if self.alias else _OTHER
        return f"{self.uri} {what}{role}"


def register(params: Params, project: Path) -> RegisteredModel:
    """Register the project's model under `register.name`, as the candidate to be promoted.

    Raises `UserError` if model, evaluation or data are missing or do not belong together, or if the store fails.
    """
    return register_model(Pretrained.of_project(params, project), project / paths.SPOOL)


def register_model(what: Registrable, spool: Path) -> RegisteredModel:
    """Register a model as the candidate to be promoted; its run may still wait in `spool`. Raises `UserError` if that fails."""
    client, name = store.client(), offered_as(what.name)
    with store.store_errors(), registry_lock():
        version = _find_same(client, name, what.lineage)
        new = version is None
        if version is not None:
            version = _without_twins(client, version)
        if version is None:
            deliver_left_behind(spool)
            created = _create_version(client, what)
            version = _give_way(client, created, _find_same(client, name, what.lineage))
            new = version.version == created.version
        alias = offer(client, version)
        refresh_description(client, name)
        assert version.run_id, "every version of ours has a run"
        return RegisteredModel(
            name=name,
            version=int(version.version),
            alias=alias,
            uri=f"models:/{name}/{version.version}",
            run_id=version.run_id,
            tracking_uri=public_uri(client.tracking_uri),
            experiment_id=client.get_run(version.run_id).info.experiment_id,
            new=new,
        )


def with_its_role(registered: RegisteredModel) -> RegisteredModel:
    """Return the version with the highest alias that it holds now: the gate may have made more of the candidate."""
    client = store.client()
    with store.store_errors():
        held = [
            alias
            for alias in (CHAMPION, CHALLENGER, CANDIDATE)
            if (found := version_of_alias(client, registered.name, alias)) and int(found.version) == registered.version
        ]
    return dataclasses.replace(registered, alias=held[0] if held else None)


def _find_same(client: "MlflowClient", name: str, lineage: Lineage) -> "ModelVersion | None":
    """Return the first version of the same model, if there is one; not one of uncommitted code where this is of committed code."""
    tags = lineage.tags()
    found = []
    for version in all_versions(client, name):
        same = all(version.tags.get(key) == tags[key] for key in _IDENTITY)
        is_dirty = version.tags.get("git_dirty") == "true"
        if same and version.run_id and (lineage.git_dirty or not is_dirty):
            found.append((is_dirty, int(version.version), version))
    ordered = (version for *_, version in sorted(found, key=lambda entry: entry[:2]))
    return next((each for each in ordered if is_on_disk(client, each) and keeps_frozen(client, each)), None)


def _create_version(client: "MlflowClient", what: Registrable) -> "ModelVersion":
    from mlflow.entities import LoggedModelOutput, Metric, RunTag

    name, lineage = offered_as(what.name), what.lineage
    run = store.training_run(client, what.experiment, lineage.fingerprint)
    run_id = run.info.run_id
    tags = lineage.tags() | what.tags
    model = client.create_logged_model(run.info.experiment_id, name, run_id, tags=tags, model_type="gpt")
    tags["lineage"] = f"runs:/{run_id}/{FOLDER}/{model.model_id}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / FOLDER
            parents = find_parents(client, what.name, lineage, run_id, run.info.experiment_id)
            write_record(record, what.compose(parents), lineage.files)
            for path in what.shown:
                shutil.copyfile(path, record / path.name)
            write_package(Path(folder, "model"), Path(folder), model, run_id, what)
            what.write_evaluation(Path(folder, "model", EVALUATION_FOLDER))
            client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
            client.log_artifacts(run_id, str(record), f"{FOLDER}/{model.model_id}")
        if card := what.card:
            client.log_text(run_id, card, "data.html")  # training logs it too, but may have begun before it was there
        now = int(time.time() * 1000)
        metrics = [
            Metric(figure, value, now, FIGURE_STEP, model_id=model.model_id, run_id=run_id)
            for figure, value in what.figures.items()
        ]
        client.log_batch(run_id, metrics=metrics, tags=[RunTag(f"lineage.{key}", value) for key, value in tags.items()])
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, what.last_step)])
        client.finalize_logged_model(model.model_id, "READY")
        ensure_registered_model(client, name)
        description = what.describe(tags, f"models:/{model.model_id}")
        source, model_id = model.artifact_location, model.model_id
        version = client.create_model_version(name, source, run_id, tags, model_id=model_id, description=description)
        return _without_twins(client, version)
    except BaseException:
        with suppress(Exception):  # the first failure is the one to tell
            if all(version.source != model.artifact_location for version in all_versions(client, name)):
                client.delete_logged_model(model.model_id)
        raise


def _without_twins(client: "MlflowClient", version: "ModelVersion") -> "ModelVersion":
    """Return the first version of the same logged model, and delete any other.

    MLflow's client sends a request again whose answer was lost: a server that was killed in between has done it already.
    """
    *twins, first = [each for each in all_versions(client, version.name) if each.source == version.source]
    for twin in twins:
        client.delete_model_version(twin.name, twin.version)
    return first


def _give_way(client: "MlflowClient", created: "ModelVersion", first: "ModelVersion | None") -> "ModelVersion":
    """Return the version that stays: another machine may have registered the same model meanwhile, and the first one stays."""
    if first is None or int(first.version) >= int(created.version):
        return created
    client.delete_model_version(created.name, created.version)
    client.delete_logged_model(created.tags["lineage"].rpartition("/")[2])  # its record is named by the model's id
    return first
