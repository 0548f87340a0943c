import shutil
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from gpt import paths
from gpt.errors import UserError
from gpt.tracking import store


def test_local_store_is_absolute_and_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert store.tracking_uri() == "http://tracking:5000"


def test_the_store_of_an_experiments_copy_is_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC names the project in DVC_ROOT; a foreign project, whose stage calls a command of this one, is not believed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy = tmp_path / "a project/.dvc/tmp/exps/standalone/tmp123/sub"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    for root, folder in (
        (str(tmp_path / "a project"), tmp_path / "a project"),
        (str(tmp_path), copy),
        (str(tmp_path / "gone"), copy),
        ("", copy),
    ):
        monkeypatch.setenv("DVC_ROOT", root)
        assert store.tracking_uri() == f"sqlite:///{folder}/mlflow.db"
        assert paths.kept(paths.SPOOL).absolute() == folder / "spool"


@pytest.mark.parametrize("name", ["100%", "a%20b", "what?", "a#b", "ü ñ"])
def test_a_project_may_lie_in_any_folder(
    tmp_path: Path, empty_store: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / name).mkdir()
    shutil.copyfile(empty_store, tmp_path / name / "mlflow.db")
    monkeypatch.chdir(tmp_path / name)
    assert store.database_file(store.tracking_uri()) == tmp_path / name / "mlflow.db"
    identifier = store.experiment_id(store.client(), "a-study")
    with sqlite3.connect(tmp_path / name / "mlflow.db") as database:
        assert ("a-study",) in list(database.execute("select name from experiments"))
    assert store.client().get_experiment(identifier).artifact_location == (tmp_path / name / "mlartifacts").as_uri()


def test_experiment_keeps_its_artifacts_beside_the_database(project: Path) -> None:
    client = store.client()
    identifier = store.experiment_id(client, "a-study")
    assert store.experiment_id(client, "a-study") == identifier
    assert client.get_experiment(identifier).artifact_location == (project / "mlartifacts").as_uri()


def test_deleted_experiment_is_an_error_with_what_to_do(project: Path) -> None:
    client = store.client()
    client.delete_experiment(store.experiment_id(client, "a-study"))
    with pytest.raises(UserError, match="mlflow experiments restore"):
        store.experiment_id(client, "a-study")


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_unreachable_server_is_an_error_in_seconds(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:secret@127.0.0.1:{port}/mlflow")
        begun = time.monotonic()
        with pytest.raises(UserError, match="cannot be reached") as refusal:
            store.client()
    assert time.monotonic() - begun < 10
    assert "secret" not in str(refusal.value)


def test_a_server_that_does_not_answer_is_an_error_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PROBE_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="cannot be reached"):
            store.client()


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_text("no database, and longer than its header")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match="not a sqlite database"):
        store.client()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/missing/mlflow.db")
    with pytest.raises(UserError, match="folder is missing"):
        store.client()


def test_a_relative_path_of_sqlite_is_made_absolute_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a%20b?c #1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    assert store.database_file(store.tracking_uri()) == folder / "runs.db"
