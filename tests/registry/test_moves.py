"""A project that is moved, copied or reached by another way: its models are found, and written beside its own database."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient

from gpt.commands.checks import store as checks
from gpt.files import sha256_tree
from gpt.params.project import load_params
from gpt.registry.promotion import promote, rollback
from gpt.registry.versions import CHAMPION, resolve_model
from gpt.tracking import store
from gpt.tracking.location import find_misplaced, put_right
from tests import ROOT
from tests.conftest import without_roots_rights
from tests.registry.conftest import register_model

NAME = "small-gpt"


@pytest.fixture(scope="session")
def made_here(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two champions, one after the other. To copy."""
    folder = tmp_path_factory.mktemp("champions") / "project"
    shutil.copytree(built, folder)
    params = load_params(folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        for steps in (5, 20):
            register_model(folder, steps)
            promote(params, folder)
    return folder


@pytest.fixture
def champions(made_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project for one test alone, put right; the current folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a project"
    shutil.copytree(made_here, folder)
    put_right(folder / "mlflow.db")
    monkeypatch.chdir(folder)
    return folder


def go_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def models_of(folder: Path) -> set[Path]:
    return set((folder / "mlartifacts/models").iterdir())


def places(database: Path) -> list[str]:
    client = MlflowClient(store.address_of(database))
    versions = client.search_model_versions(f"name = '{NAME}'")
    experiments = client.search_experiments(filter_string="name != 'Default'")
    runs = client.search_runs([experiment.experiment_id for experiment in experiments])
    return [
        *(client.get_model_version_download_uri(NAME, version.version) for version in versions),
        *(version.source or "" for version in versions),
        *(experiment.artifact_location for experiment in experiments),
        *(run.info.artifact_uri or "" for run in runs),
        *(model.artifact_location for model in client.search_logged_models([one.experiment_id for one in experiments])),
    ]


@pytest.mark.parametrize("name", ["a-project", "a%20b?/ü's #1"])
def test_a_moved_project_reads_and_writes_beside_its_database(
    champions: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = champions.parent / name
    moved.parent.mkdir(exist_ok=True)
    champions.rename(moved)
    go_to(moved, monkeypatch)
    assert resolve_model(f"models:/{NAME}@{CHAMPION}").is_relative_to(moved)
    before = models_of(moved)
    version = register_model(moved, steps=30)
    assert version.version == 3
    assert len(models_of(moved) - before) == 1
    assert not champions.exists(), "the old place was not made again"
    assert all(place.startswith((moved.as_uri(), str(moved))) for place in places(moved / "mlflow.db"))
    params = load_params(moved / "params.yaml")
    assert promote(params, moved).version == 3
    assert rollback(params).version == 2


@pytest.mark.slow
def test_a_copy_leaves_the_original_alone(champions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sha256_tree(champions)
    copy = champions.parent / "copy"
    shutil.copytree(champions, copy)
    go_to(copy, monkeypatch)
    register_model(copy, steps=30)
    promote(load_params(copy / "params.yaml"), copy)
    assert resolve_model(f"models:/{NAME}/1").is_relative_to(copy)
    assert sha256_tree(champions) == before
    go_to(champions, monkeypatch)
    assert resolve_model(f"models:/{NAME}@{CHAMPION}").is_relative_to(champions)


def test_a_database_that_was_copied_alone_reads_its_models_and_writes_nothing_to_them(
    champions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sha256_tree(champions)
    copy = champions.parent / "copy"
    shutil.copytree(champions, copy, ignore=shutil.ignore_patterns("mlartifacts"))
    go_to(copy, monkeypatch)
    assert resolve_model(f"models:/{NAME}@{CHAMPION}").is_relative_to(champions)
    register_model(copy, steps=20)  # the same training: its run gets new artifacts
    register_model(copy, steps=30)
    assert sha256_tree(champions) == before
    run_id = store.client().get_model_version(NAME, "1").run_id
    assert run_id
    assert MlflowClient(f"sqlite:///{copy}/mlflow.db").list_artifacts(run_id, "lineage"), "copied with the run"


def test_what_was_written_to_the_old_place_before_is_found_and_told(
    champions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a version of this project without this module did after a move."""
    moved = champions.parent / "moved"
    champions.rename(moved)
    go_to(moved, monkeypatch)
    client = MlflowClient(f"sqlite:///{moved}/mlflow.db")
    source = client.get_model_version(NAME, "2").source
    assert source
    old = Path(unquote(source.removeprefix("file://")))
    old.parent.mkdir(parents=True)
    (moved / old.relative_to(champions)).rename(old)
    (_, subject, told), *_ = checks.artifacts()
    assert (subject, f"was in {champions} before" in told) == ("artifacts", True)
    assert resolve_model(f"models:/{NAME}/1").is_relative_to(moved)
    assert resolve_model(f"models:/{NAME}/2").is_relative_to(old)
    ((_, subject, told),) = checks.artifacts()
    assert f"1 models lie in {champions}/mlartifacts only" in told
    left = find_misplaced(moved / "mlflow.db")
    assert {one.kind for one in left} == {"models"}
    assert all(one.is_only_there for one in left)
    shutil.copytree(champions / "mlartifacts", moved / "mlartifacts", dirs_exist_ok=True)
    assert resolve_model(f"models:/{NAME}/2").is_relative_to(moved)
    assert not find_misplaced(moved / "mlflow.db")
    assert not list(checks.artifacts())


@pytest.mark.slow
def test_mlflow_alone_loads_a_model_after_a_move(champions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = champions.parent / "moved"
    champions.rename(moved)
    go_to(moved, monkeypatch)
    resolve_model(f"models:/{NAME}@{CHAMPION}")  # any command of ours
    code = f"""
import mlflow, pandas
mlflow.set_tracking_uri("sqlite:///{moved}/mlflow.db")
print(len(mlflow.pyfunc.load_model("models:/{NAME}@{CHAMPION}").predict(pandas.DataFrame({{"prompt": ["to"]}}))))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd="/", capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "1", done.stderr


@pytest.mark.slow
def test_a_moved_project_that_cannot_be_written_is_read(champions: Path) -> None:
    moved = champions.parent / "moved"
    champions.rename(moved)
    (moved / "mlflow.db").chmod(0o444)
    moved.chmod(0o555)
    command = [sys.executable, "-m", "gpt", "generate", "to be", "--model", f"models:/{NAME}@{CHAMPION}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            without_roots_rights(*command), cwd=moved, env=environment, capture_output=True, text=True, timeout=120
        )
    finally:
        moved.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("to be")


def test_a_project_that_is_reached_by_a_link_stays_as_it_is(champions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = champions.parent / "link"
    link.symlink_to(champions, target_is_directory=True)
    before = places(champions / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{link}/mlflow.db")
    resolve_model(f"models:/{NAME}@{CHAMPION}")
    register_model(champions, steps=30)
    after = places(champions / "mlflow.db")
    assert set(before) < set(after)
    assert all(str(champions) in place or champions.as_uri() in place for place in after)
    assert {path.resolve() for path in models_of(link)} == models_of(champions)


def test_places_that_somebody_chose_stay(champions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = store.client()
    chosen = {"a": "s3://bucket/mlartifacts", "b": "file:///data/shared/artifacts", "c": "mlflow-artifacts:/7"}
    for name, place in chosen.items():
        client.create_experiment(name, artifact_location=place)
    moved = champions.parent / "moved"
    champions.rename(moved)
    client = store.client() if go_to(moved, monkeypatch) else client
    for name, place in chosen.items():
        experiment = client.get_experiment_by_name(name)
        assert experiment
        assert experiment.artifact_location == place


def test_the_default_experiment_moves_too(champions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(champions / "mlflow.db") as database:
        database.execute(
            "update experiments set artifact_location = ? where experiment_id = 0", (f"{champions}/mlruns/0",)
        )
    moved = champions.parent / "moved"
    champions.rename(moved)
    go_to(moved, monkeypatch)
    assert store.client().get_experiment("0").artifact_location == f"{moved}/mlruns/0"
    assert not find_misplaced(moved / "mlflow.db")


@pytest.mark.slow
def test_two_commands_at_once_put_a_moved_project_right(champions: Path) -> None:
    moved = champions.parent / "moved"
    champions.rename(moved)
    command = [sys.executable, "-m", "gpt", "lineage", f"models:/{NAME}@{CHAMPION}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, cwd=moved, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not find_misplaced(moved / "mlflow.db")
