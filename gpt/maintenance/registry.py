"""What the MLflow store holds that may go: versions that nothing needs, models that no version has, runs that somebody deleted.

What others in the same store have made from a version keeps it; nothing of theirs is removed.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import as_object
from gpt.maintenance.artifacts import database_of, size_of, why_elsewhere
from gpt.maintenance.plan import Item, Limits, days_of, first
from gpt.maintenance.project import Project, checkpoints_in
from gpt.registry.lineage import CONTINUES, STARTED_FROM
from gpt.registry.record import Record, read_record
from gpt.registry.trail import LOG, MOVES, audit_trail
from gpt.registry.versions import all_versions
from gpt.tracking.spool import is_delivered, read_state

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

REMOVED_TAG = "gpt.gc"
"Of a model whose version is being removed."
_DAY = 86_400
_PAGE = 200

Json = dict[str, Any]


@dataclass
class Registry:
    """What was found in a store, and how to remove it. `records` are those of versions of ours that could be read."""

    client: "MlflowClient"
    project: Project
    items: list[Item] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    "Versions of ours whose record could not be read, and why."
    versions: dict[str, "ModelVersion"] = field(default_factory=dict)
    models: dict[str, "LoggedModel"] = field(default_factory=dict)
    "By the name of their item, and by the place of their files."
    began_with: dict[str, set[str]] = field(default_factory=dict)
    "By fingerprint, the versions that runs began with which are not finished."
    skipped: list[tuple[str, str]] = field(default_factory=list)


def look(client: "MlflowClient", project: Project, limits: Limits) -> Registry:
    """Find out what a store holds; raise what MLflow raises while it fails."""
    found = Registry(client, project)
    experiments = experiments_of(client, project)
    named = project.named() | frozenset(_add_beginnings(found, experiments))
    for model in _registered(client):
        if not model.endswith(LOG):
            _add_versions(found, model, limits, named)
    if experiments:
        _add_models(found, experiments, limits)
        _add_runs(found, experiments, limits)
    return found


def experiments_of(client: "MlflowClient", project: Project) -> list[str]:
    named = (client.get_experiment_by_name(name) for name in project.experiments)
    return [experiment.experiment_id for experiment in named if experiment is not None]


def _registered(client: "MlflowClient") -> Iterator[str]:
    token = None
    while True:
        page = client.search_registered_models(max_results=_PAGE, page_token=token)
        yield from (model.name for model in page)
        if not (token := page.token):
            return


def _add_beginnings(found: Registry, experiments: list[str]) -> Iterator[str]:
    """Note what unfinished runs began with, for their checkpoints; yield that of runs that train now, here or elsewhere."""
    token = None
    while experiments:
        page = found.client.search_runs(
            experiments, "attributes.status != 'FINISHED'", max_results=1000, page_token=token
        )
        for run in page:
            tags = run.data.tags
            began = {tags[key] for key in ("init.uri", "base.uri") if key in tags}
            found.began_with.setdefault(tags.get("fingerprint", ""), set()).update(began)
            if run.info.status in ("RUNNING", "SCHEDULED"):
                yield from began
        if not (token := page.token):
            return


def _add_versions(found: Registry, name: str, limits: Limits, named: frozenset[str]) -> None:
    """Add the versions of a registered model, with what they need; of another project's only to keep what these need."""
    client, ours = found.client, name in found.project.models
    versions = all_versions(client, name)
    aliases: dict[str, list[str]] = {}
    for alias, number in client.get_registered_model(name).aliases.items() if versions else ():
        aliases.setdefault(str(number), []).append(alias)
    champions = {event.champion for event in audit_trail(client, name) if event.verdict in MOVES} if ours else set()
    for place, version in enumerate(versions):
        uri, age = f"models:/{name}/{version.version}", time.time() - version.creation_timestamp / 1000
        found.versions[uri] = version
        if "weights_sha256" in version.tags:  # of another project too: it may have been this one, under another name
            _read(found, uri, version, ours)
        stays = first(
            [
                "" if ours else "of another project",
                "" if "weights_sha256" in version.tags else "not registered by `gpt register`",
                ", ".join(f"@{alias}" for alias in sorted(aliases.get(str(version.version), ()))),
                "it was the champion" if int(version.version) in champions else "",
                "settings, an experiment or a run that trains begin with it" if uri in named else "",
                f"one of the newest {limits.versions} of its model" if place < limits.versions else "",
                limits.young(age),
                why_elsewhere(client, version.source or "") if ours else "",
            ]
        )
        found.items.append(
            Item(
                uri,
                "versions",
                size_of(client, version.source or "") if ours else 0,
                f"{days_of(age)}, no alias, never the champion, nothing was made from it",
                stays,
                _names(version),
                frozenset(_needs(version, found.records.get(uri))),
                shown=ours,
            )
        )


def _read(found: Registry, uri: str, version: "ModelVersion", ours: bool) -> None:
    try:
        found.records[uri] = read_record(found.client, version)
    except UserError as error:
        if ours:
            found.unread[uri] = str(error)


def _names(version: "ModelVersion") -> frozenset[str]:
    named = (("weights", "weights_sha256"), ("fingerprint", "fingerprint"))
    own = (f"{kind}:{value}" for kind, tag in named if (value := version.tags.get(tag)))
    return frozenset({*_files(version), *own})


def _files(version: "ModelVersion") -> Iterator[str]:
    """Yield names of a version's files, which several versions may share: copies of it, and a candidate that was taken over."""
    source = version.source or ""
    yield source if source.startswith("models:/") else f"files:{source}"
    if version.model_id:
        yield f"models:/{version.model_id}"


def _needs(version: "ModelVersion", record: Record | None) -> Iterator[str]:
    """Yield by name what a version was made from: its run, the weights it started from, runs that it continued or took over."""
    yield f"runs:/{version.run_id}"
    yield from _files(version)
    if started := version.tags.get(STARTED_FROM):
        yield started
        yield from checkpoints_in(started)
    if continues := version.tags.get(CONTINUES):
        yield f"fingerprint:{continues.partition(' ')[0]}"
    parents = as_object(record.values.get("parents")) if record else {}
    start = as_object(parents.get("started_from"))
    for kind, value in (("weights", start.get("weights_sha256")), ("fingerprint", start.get("fingerprint"))):
        if value:
            yield f"{kind}:{value}"
    for other in (*(parents.get("adopted") or ()), as_object(parents.get("continues"))):
        if fingerprint := other.get("fingerprint"):
            yield f"fingerprint:{fingerprint}"


def _add_models(found: Registry, experiments: list[str], limits: Limits) -> None:
    """Add our logged models that no version has: of a registration that failed, or of a version that is gone."""
    client = found.client
    taken = {name for version in found.versions.values() for name in (version.source, version.model_id)}
    taken |= {version.source.removeprefix("models:/") for version in found.versions.values() if version.source}
    backend = database_of(client)
    deleted = set(backend._get_deleted_logged_models()) if backend else set()
    for model in logged_models(client, experiments, deleted, backend):
        found.models[model.artifact_location] = found.models[model.model_id] = model
        if {model.artifact_location, model.model_id} & taken or "weights_sha256" not in model.tags:
            continue
        age = time.time() - model.last_updated_timestamp / 1000
        begun = REMOVED_TAG in model.tags or model.model_id in deleted
        stays = first(
            [
                "" if begun or age > _DAY else "of the last day: it may be one that is being registered",
                "" if begun else limits.young(age),
                why_elsewhere(client, model.artifact_location),
            ]
        )
        what = "what is left of a version that was removed" if begun else f"a model that no version has, {days_of(age)}"
        found.items.append(Item(model.model_id, "models", size_of(client, model.artifact_location), what, stays))


def logged_models(
    client: "MlflowClient", experiments: list[str], deleted: set[str], backend: Any
) -> "Iterator[LoggedModel]":
    token = None
    while True:
        page = client.search_logged_models(experiments, max_results=50, page_token=token)
        yield from page
        if not (token := page.token):
            break
    for model_id in sorted(deleted):
        model = backend.get_logged_model(model_id, allow_deleted=True)
        if model.experiment_id in experiments:
            yield model


def _add_runs(found: Registry, experiments: list[str], limits: Limits) -> None:
    """Add the runs that somebody deleted in MLflow, which keeps all of them until they are purged."""
    from mlflow.entities import ViewType

    client = found.client
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY, max_results=1000, page_token=token)
        runs += page
        if not (token := page.token):
            break
    if not runs:
        return
    if (backend := database_of(client)) is None:
        text = f"{len(runs)} deleted runs are purged where the server runs, by `mlflow gc`: a client cannot"
        found.skipped.append(("deleted runs", text))
        return
    old = set(backend._get_deleted_runs(older_than=int(limits.days * _DAY * 1000)))
    waiting = {
        state.run_id for path in paths.SPOOL.glob("*.jsonl") if not is_delivered(path) and (state := read_state(path))
    }
    for run in runs:
        run_id, tag = run.info.run_id, run.data.tags.get("fingerprint")
        stays = first(
            [
                "" if run_id in old else f"deleted in MLflow in the last {limits.days:g} days",
                "its journal waits in spool/" if run_id in waiting else "",
                why_elsewhere(client, run.info.artifact_uri),
            ]
        )
        named = f"{run.info.run_name or ''} deleted in MLflow".strip()
        names = frozenset({f"fingerprint:{tag}"} if tag else ())
        size = size_of(client, run.info.artifact_uri)
        found.items.append(Item(f"runs:/{run_id}", "runs", size, named, stays, names))
