"""What a run shows in Prefect's UI, with a real Prefect server and a real MLflow server."""

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.artifacts import publish, run_page
from gpt.params.project import load_params
from gpt.registry.package import register
from tests.flows.conftest import Api
from tests.registry.conftest import built
from tests.servers import mlflow_server

__all__ = ["built"]


@pytest.fixture
def server(built: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An MLflow server that the environment names; the current folder is a project with a trained model."""
    shutil.copytree(built, tmp_path / "project")
    (tmp_path / "server").mkdir()
    shutil.copyfile(empty_store, tmp_path / "server/mlflow.db")
    monkeypatch.chdir(tmp_path / "project")
    with mlflow_server(tmp_path / "server") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        yield url


@pytest.mark.slow
def test_a_run_at_a_server_is_linked_from_prefects_ui(server: str, api: Api) -> None:
    registered = json.loads(register(load_params(), Path.cwd()).to_json())
    with temporary_settings({PREFECT_API_URL: api.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
        assert flow(publish)(registered, return_state=True).is_completed()
    (artifact,) = api.post(
        "artifacts/filter", {"artifacts": {"key": {"any_": ["mlflow-run"]}}, "sort": "UPDATED_DESC", "limit": 1}
    )
    link = re.search(r"\((http[^)]+)\)", artifact["data"])
    assert link, artifact["data"]
    assert registered["run_id"] in artifact["data"]
    assert artifact["description"] == "models:/small-gpt/1"
    page, _, place = link[1].partition("#")
    assert page == f"{server}/"
    with urllib.request.urlopen(page, timeout=30) as answer:
        assert b"MLflow" in answer.read()
    experiment_id, run_id = re.fullmatch(r"/experiments/(\d+)/runs/([0-9a-f]{32})", place).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert MlflowClient(server).get_run(run_id).info.experiment_id == experiment_id


@pytest.mark.parametrize(
    ("tracking_uri", "page"),
    [
        ("http://mlflow:5000", "http://mlflow:5000/#/experiments/7/runs/abc"),
        ("http://mlflow:5000/", "http://mlflow:5000/#/experiments/7/runs/abc"),
        ("https://me:secret@mlflow.example.org/prefix/", "https://mlflow.example.org/prefix/#/experiments/7/runs/abc"),
        ("sqlite:////project/mlflow.db", None),
        ("postgresql://me:secret@database/mlflow", None),
    ],
)
def test_only_a_server_has_a_page_and_its_address_no_secret(tracking_uri: str, page: str | None) -> None:
    registered: dict[str, Any] = {"tracking_uri": tracking_uri, "experiment_id": "7", "run_id": "abc"}
    assert run_page(registered) == page
