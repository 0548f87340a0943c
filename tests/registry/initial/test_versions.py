"""A registered version to start from: an alias is resolved before any stage runs, and the child names its parent."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json, sha256_file, write_json
from gpt.params.project import Params, load_params
from gpt.projects.inputs import describe_inputs
from gpt.registry.initial.origin import describe_origin, named_by_params
from gpt.registry.initial.weights import bring_weights
from gpt.registry.package import register
from gpt.registry.record import read_record
from gpt.registry.versions import find_version
from gpt.reports.lineage import describe_lineage
from gpt.tracking import store
from gpt.training.initial import check_initial, read_source
from tests.registry.conftest import change_params, describe_run, make_model, register_model
from tests.servers import mlflow_server

NAME = "small-gpt"


def start_from(project: Path, named: str) -> Params:
    return change_params(project, {"train": {"init_from": named}})


def test_an_alias_is_the_version_that_it_names_now_and_a_number_is_nobodys_to_look_up(project: Path) -> None:
    register_model(project, steps=5)
    params = start_from(project, f"models:/{NAME}@candidate")
    first = describe_inputs("fetch_weights", params)
    assert first["origin"] == {
        "init_from": f"models:/{NAME}@candidate", "kind": "version", "name": NAME, "version": 1,
    }  # fmt: skip
    register_model(project, steps=6)
    assert describe_inputs("fetch_weights", params)["origin"]["version"] == 2, "so dvc repro brings the other"
    assert describe_origin(named_by_params(start_from(project, "@candidate")))["version"] == 2, "of register.name"
    (project / "mlflow.db").rename(project / "away.db")
    assert describe_origin(named_by_params(start_from(project, f"models:/{NAME}/1")))["version"] == 1
    assert describe_origin(named_by_params(start_from(project, "scratch"))) == {"init_from": "scratch"}


def test_under_dvc_the_version_is_the_one_that_was_found_when_it_began(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its run cache would keep the weights of version 2 as what comes of version 1."""
    register_model(project, steps=5)
    params = start_from(project, f"models:/{NAME}@candidate")
    paths.INPUTS.mkdir(parents=True, exist_ok=True)
    write_json(paths.INPUTS / "fetch_weights.json", describe_inputs("fetch_weights", params))
    register_model(project, steps=6)
    monkeypatch.setenv("DVC_STAGE", "fetch_weights")
    assert bring_weights(params)["version"] == 1
    assert bring_weights(start_from(project, "@candidate"))["version"] == 2, "nothing was found of another name"
    monkeypatch.delenv("DVC_STAGE")
    assert bring_weights(start_from(project, f"models:/{NAME}@candidate"))["version"] == 2


def test_without_its_store_an_alias_is_what_was_brought_for_it(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    register_model(project, steps=5)
    named = f"models:/{NAME}@candidate"
    params = start_from(project, named)
    brought = bring_weights(params)
    (project / "mlflow.db").rename(project / "away.db")
    assert describe_origin(named_by_params(params)).items() <= brought.items()
    assert f"train.init_from = {named}: " in caplog.text and "models/initial holds it, and stands for it" in caplog.text
    assert bring_weights(params) == brought
    with pytest.raises(UserError, match=r"train.init_from = models:/other@champion: .*mlflow.db: not there yet"):
        describe_origin(named_by_params(start_from(project, "models:/other@champion")))


@pytest.mark.slow
def test_of_a_server_that_fails_after_it_has_answered_an_alias_is_what_was_brought_for_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register_model(project, steps=5)
    named = f"models:/{NAME}@candidate"
    params = start_from(project, named)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with mlflow_server(project) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        brought = bring_weights(params)
        with closing(sqlite3.connect(project / "mlflow.db")) as database:
            database.execute("ALTER TABLE registered_model_aliases RENAME TO away")
        store.check_reachable(address)  # it is there, and answers
        assert describe_origin(named_by_params(params)).items() <= brought.items()
        assert "models/initial holds it, and stands for it" in caplog.text
        assert bring_weights(params) == brought
        with pytest.raises(UserError, match=f"train.init_from = models:/{NAME}@champion: {address}: .*503"):
            describe_origin(named_by_params(start_from(project, f"models:/{NAME}@champion")))
        with closing(sqlite3.connect(project / "mlflow.db")) as database:
            database.execute("ALTER TABLE away RENAME TO registered_model_aliases")
        with pytest.raises(UserError, match=r"it has version 1 of small-gpt"):
            describe_origin(named_by_params(start_from(project, f"models:/{NAME}@champion")))
        store.client().delete_registered_model_alias(NAME, "candidate")
        with pytest.raises(UserError, match=r"it has version 1 of small-gpt"):
            describe_origin(named_by_params(start_from(project, named)))  # that there is none is an answer


def test_what_is_brought_are_the_versions_bytes(project: Path) -> None:
    registered = register_model(project, steps=5)
    weights = sha256_file(paths.BASE_MODEL / "model.safetensors")
    make_model(project, steps=6)
    params = start_from(project, f"models:/{NAME}/1")
    source = bring_weights(params)
    assert sha256_file(paths.INITIAL / "model.safetensors") == source["weights_sha256"] == weights
    assert (source["uri"], source["run_id"]) == (f"models:/{NAME}/1", registered.run_id)
    assert read_source(params.train) == source
    check_initial(params)
    with pytest.raises(UserError, match=f"there is no models:/{NAME}/7 in sqlite"):
        bring_weights(start_from(project, f"models:/{NAME}/7"))
    with pytest.raises(UserError, match=r"not in .*; it has version 1 of small-gpt; @candidate \(version 1\)"):
        bring_weights(start_from(project, f"models:/{NAME}@champion"))


def test_lineage_names_what_a_version_started_from_and_the_run_that_it_continues(project: Path) -> None:
    parent = register_model(project, steps=5)
    params = start_from(project, f"models:/{NAME}@candidate")
    source = bring_weights(params)
    make_model(project, steps=6)
    before = {"fingerprint": "run-5-0", "step": 150, "run": "20261127-080000-abcdef"}
    write_json(project / paths.RUN, describe_run(project, "run-6") | {"initial": source, "parent": before})
    child = register(load_params(), project)
    client = store.client()
    version = find_version(client, child.uri)
    assert version.tags["started_from"] == parent.uri
    assert version.tags["continues"] == "run-5-0 from step 150"
    record = read_record(client, version).values
    assert record["parents"]["started_from"] == source
    assert record["parents"]["continues"] == before | {"run_id": parent.run_id}
    said = describe_lineage(record, child.uri)
    weights = source["weights_sha256"][:12]
    assert f"started from {parent.uri}, named as models:/{NAME}@candidate: weights {weights}" in said
    assert f"continues run run-5-0 from step 150, the state before its decay, MLflow run {parent.run_id}" in said
    first = read_record(client, find_version(client, parent.uri)).values
    assert "started from" not in describe_lineage(first, parent.uri)
    assert read_json(paths.RUN, "")["initial"] == source
