"""`gpt reproduce` of versions that did not begin with drawn weights: of another version, of a folder, of another run's state."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gpt.files import read_json
from tests.e2e.conftest import Project, build_project, environment_of
from tests.e2e.test_changes import replace
from tests.remaking import MODEL, kill_tree, state, tags

pytestmark = pytest.mark.long

WSD = {"schedule": "wsd", "warmup_fraction": 0.0, "warmup_steps": 4, "decay_fraction": 0.5, "checkpoint_keep_stable": 3}
RATE = "    return settings.min_lr + (peak - settings.min_lr) * left\n"
OTHER_RATE = "    return settings.min_lr + (peak - settings.min_lr) * left * 0.9\n"


def uri(version: int) -> str:
    return f"models:/{MODEL}/{version}"


def train(project: Project, **train: object) -> None:
    """Train the project through DVC with a change of section `train`, and register what comes of it."""
    project.change(train=train)
    project.run("dvc", "repro")
    project.run("gpt", "register")


def made_again(project: Project, version: int, *options: str) -> str:
    """Make a version again, which must come out the same and leave the project as it was; return what was said."""
    before = state(project)
    said = project.run("gpt", "reproduce", uri(version), *options)
    assert f"{uri(version)}: identical, weights {tags(project, str(version))['weights_sha256']}" in said, said
    kept = {"worktrees": before["worktrees"]} if "--keep" in options else {}
    assert state(project) | kept == before
    return said


def refused(project: Project, version: int, message: str) -> None:
    """See that a version cannot be made again, with one clear error."""
    said = project.run("gpt", "reproduce", uri(version), exit_code=2)
    assert message in said
    assert "Traceback" not in said


def forget_weights(project: Project) -> None:
    """Remove the initial weights from DVC's cache."""
    digest = project.locked_outputs()["models/initial"]
    (project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()


def place(project: Project) -> Path:
    (folder,) = (project.folder / ".dvc/tmp/reproduce").glob("*/")
    return folder / "code"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path, empty_store: Path) -> Path:
    """A folder with a project that has registered a version. To copy, not to change."""
    top = tmp_path_factory.mktemp("first")
    train(build_project(top, prefect_home, empty_store), **WSD, max_steps=20)
    return top


@pytest.fixture
def project(first: Path, tmp_path: Path, prefect_home: Path) -> Project:
    shutil.copytree(first, tmp_path / "copy", symlinks=True)
    folder = tmp_path / "copy" / "a project, ü"
    return Project(folder, environment_of(folder, prefect_home))


def test_weights_of_a_version_come_from_dvc_or_from_the_registry_by_its_number(project: Project) -> None:
    train(project, init_from=f"models:/{MODEL}@candidate", max_steps=8)
    assert tags(project, "2")["started_from"] == uri(1), "and the alias has moved to version 2 since"
    moved = f"params.yaml: train.init_from = models:/{MODEL}@candidate: was version 1, is 2"
    assert moved in project.run("gpt", "reproduce", uri(2), "--compare", exit_code=1)
    assert "models/initial: from DVC's cache" in made_again(project, 2)
    forget_weights(project)
    assert f"models/initial: from {uri(1)}, verified" in made_again(project, 2)
    assert "models/initial: from DVC's cache" in made_again(project, 2), "where it is again"
    forget_weights(project)
    MlflowClient(f"sqlite:///{project.folder}/mlflow.db").delete_model_version(MODEL, "1")
    refused(project, 2, f"there is no {uri(1)} in sqlite")


def test_weights_of_a_folder_that_no_lock_knows_of_come_from_it_while_it_holds_what_it_held(project: Project) -> None:
    shutil.copytree(project.folder / "models/base", project.folder / "mine")
    project.change(train={"init_from": "mine", "max_steps": 8})
    for command in ("fetch weights", "pretrain", "evaluate", "register"):
        project.run("gpt", *command.split())
    said = made_again(project, 2, "--keep")
    assert "models/initial: from mine, verified" in said
    assert (project.folder / "mine/config.json").exists() and not (place(project) / "mine").exists()
    assert "init_from" not in project.run("gpt", "reproduce", uri(2), "--compare")
    (project.folder / "mine/notes.txt").write_text("other\n")
    assert "train.init_from = mine: holds other files now" in project.run(
        "gpt", "reproduce", uri(2), "--compare", exit_code=1
    )
    refused(
        project, 2, f"{uri(2)}: started from {project.folder}/mine, which holds other files now; DVC has models/initial"
    )
    shutil.rmtree(project.folder / "mine")
    refused(project, 2, "which is gone; DVC has models/initial of then neither in its cache nor in a remote")


def test_a_run_that_was_made_longer_is_made_again_without_the_run_that_it_continues(project: Project) -> None:
    parent = read_json(project.folder / "models/run.json", "")["fingerprint"]
    train(project, max_steps=40)
    assert tags(project, "2")["continues"] == f"{parent} from step 10"
    (longer,) = [path for path in (project.folder / "checkpoints/stable").glob("*/step_*") if path.name.endswith("20")]

    # What is trained on from the state of a run that is made longer: a checkpoint with its optimizer's state.
    named = longer.relative_to(project.folder).as_posix()
    train(project, init_from=named, init_optimizer=True, max_steps=8, checkpoint_keep_stable=0)
    forget_weights(project)
    assert f"models/initial: from {named}, verified" in made_again(project, 3, "--keep")
    assert not list((place(project) / "checkpoints").glob("stable/*/*")), "training removes old states of its own"

    shutil.rmtree(project.folder / "checkpoints")
    said = made_again(project, 2)
    assert f"it continues run {parent} from step 10: here all steps are made, without that run" in said

    process = project.start("gpt", "reproduce", uri(2))
    assert process.stdout and any("Running stage 'prepare'" in line for line in process.stdout)
    kill_tree(process)
    (made,) = (folder for folder in (project.folder / ".dvc/tmp/reproduce").glob(f"{MODEL}-2-*/code"))
    replace("gpt/training/steps/optimizer.py", RATE, OTHER_RATE)(Project(made, project.environment))
    said = project.run("gpt", "reproduce", uri(2), exit_code=1)
    assert f"{uri(2)}: differs, first in: weights" in said
    assert f"its first 10 steps are those of run {parent} (MLflow run " in said
    assert "started from" not in said
