"""A project whose training starts from weights, through DVC and the registry, as a user runs it."""

import shutil
from collections.abc import Callable

import pytest

from gpt.files import read_json
from tests.e2e.conftest import Project

pytestmark = pytest.mark.slow

REPRO = ("dvc", "--wait-for-lock", "repro")


def test_a_registered_version_trained_on_for_0_steps_is_the_same_model_and_its_child(
    copy_registered: Callable[[str], Project],
) -> None:
    project = copy_registered("copy")
    first = project.weights()
    project.change(train={"init_from": "models:/shakespeare-gpt@candidate", "max_steps": 0})
    assert project.stages_run(project.run(*REPRO)) == ["inputs", "fetch_weights", "pretrain", "report"]
    assert project.weights() == first, "so there was nothing to evaluate again"
    assert "models:/shakespeare-gpt/2 registered" in project.run("gpt", "register")
    assert "started from models:/shakespeare-gpt/1, named as" in project.run(
        "gpt", "lineage", "models:/shakespeare-gpt/2"
    )
    # The alias has moved to version 2, of the same bytes: the weights are brought anew, as their origin is another.
    assert "fetch_weights" in project.stages_run(project.run(*REPRO))
    assert read_json(project.folder / "models/initial/source.json", "")["version"] == 2
    assert project.stages_run(project.run(*REPRO)) == ["inputs"]
    shutil.rmtree(project.folder / "models/initial")
    assert "models/initial" in project.run("dvc", "status"), "it is in DVC's cache"
    output = project.run("gpt", "pretrain", exit_code=2)
    assert "models/initial/source.json: not found; run `gpt fetch weights`" in output
    assert "Traceback" not in output
