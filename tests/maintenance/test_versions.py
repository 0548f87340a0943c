"""Versions: what has an alias, was the champion, or is what another was made from, is never removed; the rest goes, whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpt.commands.main import main
from gpt.maintenance.gc import Found, collect, look
from gpt.maintenance.plan import Limits
from gpt.params.project import Params
from gpt.registry.lineage import STARTED_FROM
from gpt.registry.versions import all_versions, resolve_model
from gpt.tracking import store
from gpt.training.checkpoints.checkpoint import single_trainer
from tests import ROOT
from tests.registry.conftest import register_model
from tests.servers import mlflow_server

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTHING = Limits(days=0, versions=0)
"Keep nothing for its age or place."
UNUSED = "models:/small-gpt/2"

# Ends the process at the instant at which the version is gone, and its files are there.
KILLED = """
import os, signal
from gpt.maintenance import removal
removal.delete_files = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from gpt.commands.main import main
main(["gc", "--apply", "--keep-days", "0", "--keep-versions", "0"])
"""


@pytest.fixture(scope="session")
def three_versions(line_of_champions: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion, version 1, one that nothing needs, 2, and the candidate, 3. To be copied."""
    folder = shutil.copytree(line_of_champions[0], tmp_path_factory.mktemp("versions") / "a project")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GPT_CACHE", str(folder.parent / "cache"))
        patch.chdir(folder)
        for steps in (50, 60):
            register_model(folder, steps)
    return folder


@pytest.fixture
def versions(three_versions: Path, project: Path) -> "MlflowClient":
    """The store of a copy of those in the current folder."""
    shutil.copytree(three_versions, project, dirs_exist_ok=True)
    return store.client()


def free(found: Found) -> set[str]:
    return {item.name for item in found.plan.free}


def kept(found: Found) -> dict[str, str]:
    return {item.name: why for item, why in found.plan.kept}


def numbers(client: "MlflowClient") -> list[int]:
    return sorted(int(version.version) for version in all_versions(client, "small-gpt"))


def files() -> set[Path]:
    return {path.parents[3] for path in Path("mlartifacts/models").glob("*/artifacts/artifacts/base/model.safetensors")}


@pytest.fixture
def gpt(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command of gpt and returns what it printed."""

    def run(*arguments: str, exit_code: int = 0) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == exit_code
        return capsys.readouterr().out

    return run


def test_a_version_that_nothing_needs_goes_whole_and_the_champion_still_loads(
    versions: "MlflowClient", params: Params
) -> None:
    before = files()
    assert len(before) == 3
    shown = look(params, NOTHING)
    assert free(shown) == {UNUSED} and files() == before, "to look changes nothing"
    assert kept(shown)["models:/small-gpt/1"] == "@champion"
    assert kept(shown)["models:/small-gpt/3"].startswith("@candidate")
    removed = collect(params, NOTHING)
    assert [item.name for item in removed.removed] == [UNUSED] and not removed.failed
    assert removed.removed[0].size_bytes > 100_000
    assert numbers(versions) == [1, 3] and len(files()) == 2
    assert resolve_model("@champion", "small-gpt").is_dir(), "its weights have the hash of the version"
    assert free(collect(params, NOTHING)) == set()


def test_former_champions_stay(make_champions: Callable[[int], None], params: Params) -> None:
    make_champions(3)
    found = look(params, NOTHING)
    assert free(found) == set()
    assert kept(found)["models:/small-gpt/1"] == kept(found)["models:/small-gpt/2"] == "it was the champion"


def test_what_another_version_was_made_from_stays_also_if_that_is_of_another_project(
    versions: "MlflowClient", params: Params
) -> None:
    versions.set_model_version_tag("small-gpt", "3", STARTED_FROM, UNUSED)
    assert kept(look(params, NOTHING))[UNUSED] == "needed by models:/small-gpt/3"
    versions.delete_model_version_tag("small-gpt", "3", STARTED_FROM)
    versions.create_registered_model("somebody-elses")
    tags = {"weights_sha256": "0" * 64, STARTED_FROM: UNUSED}
    versions.create_model_version("somebody-elses", "models:/small-gpt/1", tags=tags)
    found = look(params, NOTHING)
    assert kept(found)[UNUSED] == "needed by models:/somebody-elses/1"
    assert free(found) == set(), "nothing of another project goes, however old it is"


def test_a_base_of_adapters_is_found_by_its_weights(versions: "MlflowClient", params: Params) -> None:
    """A recipe may name a folder: then the record of what was made has the hash of its weights, and no version."""
    weights = versions.get_model_version("small-gpt", "2").tags["weights_sha256"]
    for record in Path("mlartifacts/models").glob("*/artifacts/artifacts/lineage/lineage.json"):
        change_start(record, weights)
    for record in Path("mlartifacts").glob("*/artifacts/lineage/*/lineage.json"):
        change_start(record, weights)
    assert kept(look(params, NOTHING))[UNUSED].startswith("needed by models:/small-gpt/")


def change_start(record: Path, weights: str) -> None:
    values = json.loads(record.read_text())
    if values["model"]["weights_sha256"] != weights:
        values["parents"]["started_from"] = {"init_from": "models/base", "kind": "folder", "weights_sha256": weights}
        record.write_text(json.dumps(values))


def test_age_place_and_settings_keep_a_version(versions: "MlflowClient", params: Params) -> None:
    assert kept(look(params, Limits(days=30, versions=0)))[UNUSED] == "of the last 30 days"
    assert kept(look(params, Limits(days=0, versions=2)))[UNUSED] == "one of the newest 2 of its model"
    settings = Path("params.yaml")
    settings.write_text(settings.read_text().replace("init_from: scratch", f"init_from: {UNUSED}"))
    assert kept(look(params, NOTHING))[UNUSED] == "settings, an experiment or a run that trains begin with it"


def test_what_a_run_that_is_not_finished_began_with_stays(versions: "MlflowClient", params: Params) -> None:
    experiment = versions.get_experiment_by_name(params.base.name)
    assert experiment is not None
    tags = {"init.uri": UNUSED, "fingerprint": "0123456789abcdef"}
    run = versions.create_run(experiment.experiment_id, tags=tags).info.run_id
    assert kept(look(params, NOTHING))[UNUSED] == "settings, an experiment or a run that trains begin with it", (
        "it trains somewhere"
    )
    versions.set_terminated(run, "KILLED")
    assert free(look(params, NOTHING)) == {UNUSED}
    Path("checkpoints/0123456789abcdef/step_00000005").mkdir(parents=True)
    found = look(params, Limits(days=0, versions=0))
    assert free(found) == {UNUSED, "checkpoints/0123456789abcdef"}, "both were given up"
    with single_trainer(Path("checkpoints/0123456789abcdef")):
        assert kept(look(params, NOTHING))[UNUSED] == "needed by checkpoints/0123456789abcdef"


@pytest.mark.slow
def test_killed_between_version_and_files_it_is_told_and_finished(
    versions: "MlflowClient", params: Params, gpt: Callable[..., str]
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert numbers(versions) == [1, 3] and len(files()) == 3
    assert [item.part for item in look(params, Limits(30, 5)).plan.free] == ["models"], "whatever its age"
    assert f"✓ MLflow: {UNUSED}: the rest of its model was removed" in gpt("doctor", "--repair")
    assert len(files()) == 2
    assert gpt("doctor", "--repair") == "Nothing was to be put right.\n"
    assert free(collect(params, NOTHING)) == set()


@pytest.mark.slow
def test_two_at_once_do_no_harm(versions: "MlflowClient") -> None:
    command = [sys.executable, "-m", "gpt", "gc", "--apply", "--keep-days", "0", "--keep-versions", "0", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [json.loads(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(len(each["free"]) for each in told) == [0, 1] and not any(each["failed"] for each in told)
    assert numbers(versions) == [1, 3] and len(files()) == 2


def test_a_store_that_is_away_frees_nothing_that_it_could_have_kept(
    versions: "MlflowClient", monkeypatch: pytest.MonkeyPatch, gpt: Callable[..., str]
) -> None:
    run = Path("checkpoints/0123456789abcdef/step_00000005")
    run.mkdir(parents=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    told = gpt("gc", "--apply", "--keep-days", "0", "--keep-versions", "0", exit_code=1)
    assert "MLflow: versions, models and deleted runs stay as they are: http://127.0.0.1:9" in told
    assert "checkpoints: they stay as they are: versions may need them" in told
    assert run.exists() and numbers(versions) == [1, 2, 3] and len(files()) == 3


def test_deleted_runs_are_purged_unless_a_version_has_them(versions: "MlflowClient", params: Params) -> None:
    experiment = versions.get_experiment_by_name(params.base.name)
    assert experiment is not None
    alone = versions.create_run(experiment.experiment_id, run_name="mistake").info
    versions.log_text(alone.run_id, "text", "note.txt")
    other = versions.create_run("0").info.run_id
    champion = versions.get_model_version("small-gpt", "1").run_id
    assert champion
    for run_id in (alone.run_id, champion, other):
        versions.delete_run(run_id)
    young = look(params, Limits(30, 5))
    assert kept(young)[f"runs:/{alone.run_id}"] == "deleted in MLflow in the last 30 days"
    found = collect(params, NOTHING)
    assert free(found) == {UNUSED, f"runs:/{alone.run_id}"} and not found.failed
    assert kept(found)[f"runs:/{champion}"] == "needed by models:/small-gpt/1"
    assert not list(Path("mlartifacts", alone.run_id).rglob("*.txt"))
    assert versions.get_run(champion) and versions.get_run(other)


@pytest.mark.slow
def test_at_a_server_files_go_through_its_proxy_and_its_runs_are_left_to_it(
    project: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "server"
    served.mkdir()
    with mlflow_server(served) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        for steps in (5, 50, 60):
            register_model(project, steps)
        client = store.client()
        client.set_registered_model_alias("small-gpt", "champion", "1")
        run = client.get_model_version("small-gpt", "2").run_id
        assert run and len(list(served.rglob("base/model.safetensors"))) == 3
        client.delete_run(run)
        found = collect(params, NOTHING)
        assert [item.name for item in found.removed] == [UNUSED] and not found.failed
        assert found.removed[0].size_bytes > 100_000
        assert ("deleted runs", "1 deleted runs are purged where the server runs, by `mlflow gc`: a client cannot") in (
            found.skipped
        )
        assert numbers(client) == [1, 3] and len(list(served.rglob("base/model.safetensors"))) == 2
        assert resolve_model("@champion", "small-gpt").is_dir()
        assert not free(look(params, NOTHING))


def test_files_that_lie_with_another_copy_of_the_project_stay(
    versions: "MlflowClient", project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpt: Callable[..., str]
) -> None:
    """A database that was copied alone reads the models of the original; it must not remove them."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("mlflow.db", "params.yaml"):
        (copy / name).write_bytes((project / name).read_bytes())
    monkeypatch.chdir(copy)
    told = json.loads(gpt("gc", "--apply", "--keep-days", "0", "--keep-versions", "0", "--json"))
    assert told["removed_bytes"] == 0
    (why,) = [each["why"] for each in told["kept"] if each["name"] == UNUSED]
    assert why.startswith(f"its files lie in {project}/mlartifacts/")
    monkeypatch.chdir(project)
    assert len(files()) == 3
