"""`gpt reproduce`: a registered version is made again from its record, on made-up text, and compared byte for byte."""

import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import Project
from tests.e2e.test_changes import installed, replace

pytestmark = pytest.mark.slow

REPRO = ("dvc", "repro")
VERSION = "models:/shakespeare-gpt/1"
LONG = {"max_steps": 600, "eval_interval": 200, "checkpoint_interval": 50, "sample_interval": 600, "log_interval": 50}
RATE = "    return settings.min_lr + (peak - settings.min_lr) * left\n"
OTHER_RATE = "    return settings.min_lr + (peak - settings.min_lr) * left * (1.5 if step > 20 else 1)\n"


def register(project: Project, version: int = 1) -> None:
    project.run(*REPRO)
    assert f"shakespeare-gpt/{version} registered" in project.run("gpt", "register")


def state(project: Project) -> dict[str, Any]:
    """What a reproduction must leave alone."""
    status = ["git", "status", "--porcelain"]
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    return {
        "status": subprocess.run(status, cwd=project.folder, check=True, capture_output=True, text=True).stdout,
        "lock": (project.folder / "dvc.lock").read_bytes(),
        "outputs": {
            name: project.hash_of(name) for name in ("data", "models", "metrics", "plots", "reports", "mlartifacts")
        },
        "runs": len(client.search_runs([one.experiment_id for one in client.search_experiments()])),
        "run cache": sorted(path.name for path in (project.folder / ".dvc/cache/runs").rglob("*")),
        "worktrees": subprocess.run(["git", "worktree", "list"], cwd=project.folder, capture_output=True).stdout,
    }


def tags(project: Project) -> dict[str, str]:
    return MlflowClient(f"sqlite:///{project.folder}/mlflow.db").get_model_version("shakespeare-gpt", "1").tags


def start(project: Project, until: str) -> "subprocess.Popen[str]":
    """Start a reproduction and return once it has said something."""
    process = project.start("gpt", "reproduce", VERSION)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if until in line:
            return process
    raise AssertionError("".join(said))


def kill_tree(process: "subprocess.Popen[str]") -> None:
    """SIGKILL to a process and all that it has started, all at once."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(tree[1:], timeout=20)


def place(project: Project) -> Path:
    (folder,) = (project.folder / ".dvc/tmp/reproduce").glob("*/")
    return folder


def test_killed_half_way_it_goes_on_to_the_same_bytes_and_leaves_the_project_as_it_was(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(train=LONG)
    register(project)
    before = state(project)
    kill_tree(start(project, "step 400: validation"))
    second = project.start("gpt", "reproduce", VERSION)
    third = project.run("gpt", "reproduce", VERSION, exit_code=2)
    assert "is being reproduced already" in third
    output, _ = second.communicate(timeout=400)
    assert second.returncode == 0, output
    assert "goes on in" in output
    assert "Stage 'prepare' didn't change, skipping" in output
    assert "step 200: validation" not in output, "training goes on from its checkpoint"
    assert f"{VERSION}: identical, weights {tags(project)['weights_sha256']}" in output
    assert tags(project)["reproduced"].endswith(f"identical, weights {tags(project)['weights_sha256']}")
    assert state(project) == before
    assert not list((project.folder / ".dvc/tmp/reproduce").glob("*/"))


def test_what_changed_since_is_named_and_a_version_is_made_without_it(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = make_project()
    register(project)
    assert "are those of its record" in project.run("gpt", "reproduce", VERSION, "--compare")
    text = tmp_path / "text.jsonl"
    text.write_bytes(text.read_bytes().replace(b"queen", b"qveen", 1))
    project.change(train={"learning_rate": 0.02})
    replace("gpt/training/optimizer.py", RATE, OTHER_RATE)(project)
    installed("ftfy", "99.0")(project)
    said = project.run("gpt", "reproduce", VERSION, "--compare", exit_code=1)
    assert f"source made-up: {text} had sha256" in said
    assert "params.yaml: train.learning_rate was 0.01, is 0.02" in said
    assert "gpt/training/optimizer.py: computes otherwise" in said
    assert "package ftfy: was 6." in said and "is 99.0" in said
    assert len(said.splitlines()) == 6, "version of ftfy, which prepare computes with, and nothing else"
    said = project.run("gpt", "reproduce", VERSION, "--keep")
    assert "gpt/training/optimizer.py: computes otherwise" in said
    assert f"{VERSION}: identical" in said
    assert (place(project) / "code/models/base/model.safetensors").read_bytes() == project.weights()

    # Without the bytes of then the source cannot be had: that is what differs first.
    raw = project.locked_outputs()["data/raw"]
    (project.folder / ".dvc/cache/files/md5" / raw[:2] / raw[2:]).unlink()
    said = project.run("gpt", "reproduce", VERSION, exit_code=1)
    assert f"{VERSION}: differs, first in: sources" in said
    assert "fetch.sources made-up: sha256 is" in said
    text.unlink()
    said = project.run("gpt", "reproduce", VERSION, exit_code=2)
    assert f"path: {text} not found" in said
    assert "Traceback" not in said


def test_other_code_is_told_by_the_step_from_which_the_loss_departs(make_project: Callable[..., Project]) -> None:
    project = make_project()
    register(project)
    kill_tree(start(project, "Running stage 'prepare'"))
    code = Project(place(project) / "code", project.environment)
    replace("gpt/training/optimizer.py", RATE, OTHER_RATE)(code)
    said = project.run("gpt", "reproduce", VERSION, exit_code=1)
    assert f"{VERSION}: differs, first in: weights" in said
    assert "the runs part between step 20 and step 24: train_loss was" in said
    assert "gpt/training/optimizer.py: computes otherwise" in said
    assert "differs, first in: weights" in tags(project)["reproduced"]
    said = project.run("gpt", "reproduce", VERSION)
    assert f"{VERSION}: identical" in said, "the next attempt begins anew"
    assert sorted(name for name in tags(project) if name.startswith("reproduced."))


TEN: list[dict[str, dict[str, object]]] = [
    {"train": {"learning_rate": 0.003}},
    {"train": {"optimizer": "adamw", "learning_rate": 0.001}},
    {"train": {"schedule": "cosine"}},
    {"base": {"seed": 7}},
    {"model": {"dropout": 0.1}},
    {"model": {"position": "learned", "norm": "layernorm", "activation": "gelu"}},
    {"tokenize": {"shuffle_seed": 2}},
    {"tokenizer": {"kind": "bpe", "vocab_size": 300}},
    {"prepare": {"split_seed": 3}},
    {"launch": {"num_processes": 2, "micro_batch_size": 4}},
]


def test_ten_versions_of_different_settings_are_made_again_identical(make_project: Callable[..., Project]) -> None:
    project = make_project()
    values = project.params()
    for number, change in enumerate(TEN, start=1):
        project.change(**{section: dict(keys) for section, keys in values.items() if section in change})
        project.change(**change)
        register(project, number)
        project.change(**{section: dict(keys) for section, keys in values.items() if section in change})

    def identical(number: int) -> bool:
        said = project.run("gpt", "reproduce", f"models:/shakespeare-gpt/{number}")
        return f"models:/shakespeare-gpt/{number}: identical" in said

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(identical, range(1, len(TEN) + 1))) == [True] * len(TEN)
