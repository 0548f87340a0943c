"""Candidates beside the model: training writes to NAME-candidates alone, and `gpt promote` takes one over and judges it."""

import dataclasses
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gpt.errors import UserError
from gpt.files import sha256_tree
from gpt.params.project import load_params
from gpt.registry.package import register
from gpt.registry.packaging.offer import SUFFIX
from gpt.registry.promotion import judge_registered, promote, rollback
from gpt.registry.versions import CANDIDATE, CHAMPION, resolve_model
from gpt.tracking import store
from tests.registry.conftest import register_model

NAME, BESIDE = "small-gpt", "small-gpt-candidates"


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUFFIX, "-candidates")


def names(client: MlflowClient) -> list[str]:
    return sorted(model.name for model in client.search_registered_models())


def test_registering_writes_to_no_model_that_is_promoted_to(project: Path) -> None:
    registered = register_model(project, 5)
    assert (registered.name, registered.version, registered.alias) == (BESIDE, 1, CANDIDATE)
    told, reasons, comparison = judge_registered(load_params(), project, registered.version)
    assert "`gpt promote` does so" in told
    assert (reasons, comparison) == ((), None)
    assert names(store.client()) == [BESIDE]
    assert register(load_params(), project) == dataclasses.replace(registered, new=False)


def test_a_candidate_is_taken_over_once_with_all_it_is(project: Path) -> None:
    register_model(project, 5)
    client, params = store.client(), load_params()
    client.set_model_version_tag(BESIDE, "1", "promotion.verdict", "promoted")  # what trains may write there
    assert promote(params, project).verdict == "promoted"
    assert promote(params, project).verdict == "unchanged"
    (taken,) = client.search_model_versions(f"name = '{NAME}'")
    beside = client.get_model_version(BESIDE, "1")
    assert taken.tags["candidate_of"] == f"{BESIDE}/1"
    kept = {key: value for key, value in beside.tags.items() if not key.startswith("promotion.")}
    assert kept.items() <= taken.tags.items()
    assert (taken.source, taken.run_id, taken.description) == (beside.source, beside.run_id, beside.description)
    folders = [resolve_model(f"models:/{name}@{alias}") for name, alias in ((NAME, CHAMPION), (BESIDE, CANDIDATE))]
    assert sha256_tree(folders[0]) == sha256_tree(folders[1])


def test_the_next_candidate_is_judged_beside_the_champion_and_one_can_go_back(project: Path) -> None:
    register_model(project, 5)
    params, client = load_params(), store.client()
    promote(params, project)
    assert register_model(project, 20).name == BESIDE
    second = promote(params, project)
    assert (second.verdict, second.version, second.previous_version) == ("promoted", 2, 1)
    assert rollback(params).version == 1
    assert promote(params, project).verdict == "refused", "what was rolled back is not promoted again"
    assert int(client.get_model_version_by_alias(NAME, CHAMPION).version) == 1


def test_a_version_that_others_have_put_there_is_refused(project: Path) -> None:
    register_model(project, 5)
    client = store.client()
    source = client.get_model_version(BESIDE, "1").source or ""
    client.create_model_version(BESIDE, source)
    client.set_registered_model_alias(BESIDE, CANDIDATE, "2")
    with pytest.raises(UserError, match=r"models:/small-gpt-candidates/2: not registered by `gpt register`"):
        promote(load_params(), project)
    assert client.search_model_versions(f"name = '{NAME}'") == []


def test_with_no_candidate_beside_it_the_model_goes_on_as_it_is(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUFFIX)
    register_model(project, 5)
    monkeypatch.setenv(SUFFIX, "-candidates")
    assert promote(load_params(), project).verdict == "promoted"
    assert names(store.client()) == [NAME, f"{NAME}.decisions"]
