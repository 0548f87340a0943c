"""`gpt gc` on a project as it is after some weeks: whatever it frees, the champion loads and is made again."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE_SECONDS, Project, register

ALL = ("gc", "--keep-days", "0", "--keep-versions", "0", "--json")


def cached(project: Project) -> set[str]:
    folder = project.folder / ".dvc/cache/files/md5"
    return {path.parent.name + path.name for path in folder.glob("*/*")}


def train_until_saved(project: Project) -> "tuple[subprocess.Popen[str], Path]":
    """Start training with the present settings; return the process and its checkpoint folder once it has saved."""
    before = set(project.folder.glob("checkpoints/*/step_*"))
    trainer = project.start("gpt", "pretrain")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (saved := set(project.folder.glob("checkpoints/*/step_*")) - before):
        assert trainer.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return trainer, saved.pop().parent


def end(trainer: "subprocess.Popen[str]") -> None:
    trainer.kill()
    trainer.communicate()


@pytest.mark.slow
def test_after_gc_the_champion_loads_and_is_made_again(copy_registered: Callable[[str], Project]) -> None:
    project = copy_registered("copy")
    project.run("gpt", "promote")
    project.change(train={"max_steps": 60})
    register(project, 2)
    project.run("gpt", "promote")
    project.git("add", "-A")
    project.git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "champion")
    named = set(project.locked_outputs().values())
    project.change(train={"max_steps": 6})
    register(project, 3)
    unaliased = (
        "from gpt.tracking.store import client; client().delete_registered_model_alias('shakespeare-gpt', 'candidate')"
    )
    subprocess.run([project.python, "-c", unaliased], cwd=project.folder, env=project.environment, check=True)
    unneeded = set(project.locked_outputs().values()) - named
    assert unneeded
    project.change(train={"max_steps": 100_000})
    living, held = train_until_saved(project)
    os.kill(living.pid, signal.SIGSTOP)  # it lives, and saves nothing more
    try:
        project.change(train={"learning_rate": 0.02})
        killed, given_up = train_until_saved(project)
        end(killed)
        project.git("checkout", "-q", ".")
        project.run("dvc", "checkout")
        shown = json.loads(project.run("gpt", *ALL))
        freed = {each["name"] for each in shown["free"]}
        assert freed >= {"models:/shakespeare-gpt/3", f"checkpoints/{given_up.name}", ".dvc/cache"}
        why = {each["name"]: each["why"] for each in shown["kept"]}
        assert why["models:/shakespeare-gpt/1"] == "it was the champion"
        assert "@champion" in why["models:/shakespeare-gpt/2"]
        assert why[f"checkpoints/{held.name}"].endswith(" trains here")
        assert shown["skipped"] == [] and given_up.exists() and unneeded <= cached(project)
        removed = json.loads(project.run("gpt", *ALL, "--apply"))
        assert removed["failed"] == [] and removed["removed_bytes"] > 0
        assert not given_up.exists() and list(held.glob("step_*"))
    finally:
        end(living)
    assert not unneeded & cached(project) and named <= cached(project)
    assert [row["version"] for row in json.loads(project.run("gpt", "models", "--json"))["versions"]] == [2, 1]
    assert project.run("gpt", "generate", "to be", "--model", "@champion")
    assert "models:/shakespeare-gpt/2: identical, weights " in project.run("gpt", "reproduce", "@champion")
    project.run("dvc", "checkout")
    assert "didn't change, skipping" in project.run("dvc", "repro", "pretrain")
