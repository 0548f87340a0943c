"""`gpt gc` on a project as it is after some weeks: whatever it frees, the champion loads and is made again."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE_SECONDS, Project, register

ALL = ("gc", "--keep-days", "0", "--keep-versions", "0", "--json")
WITHOUT_ALIAS = """
from gpt.tracking.store import client
client().delete_registered_model_alias("shakespeare-gpt", "candidate")
"""


def cached(project: Project) -> set[str]:
    folder = project.folder / ".dvc/cache/files/md5"
    return {path.parent.name + path.name for path in folder.glob("*/*")}


def train_until_saved(project: Project) -> "tuple[subprocess.Popen[str], Path]":
    """Start training with the present settings; return the process and its checkpoint folder once it has saved."""
    trainer = project.start("gpt", "pretrain")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (saved := list(project.folder.glob("checkpoints/*/step_*"))):
        assert trainer.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return trainer, saved[0].parent


@pytest.mark.long
def test_after_gc_the_champion_loads_and_is_made_again(copy_registered: Callable[[str], Project]) -> None:
    project = copy_registered("copy")
    project.run("gpt", "promote")
    project.git("add", "-A")
    project.git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "champion")
    named = set(project.locked_outputs().values())
    project.change(train={"max_steps": 6})
    register(project, 2)
    subprocess.run([project.python, "-c", WITHOUT_ALIAS], cwd=project.folder, env=project.environment, check=True)
    unneeded = set(project.locked_outputs().values()) - named
    assert unneeded
    project.change(train={"max_steps": 100_000})
    trainer, living = train_until_saved(project)
    os.kill(trainer.pid, signal.SIGSTOP)  # it lives, and saves nothing more
    try:
        given_up = shutil.copytree(living, living.with_name("0123456789abcdef"))  # of nobody
        project.git("checkout", "-q", ".")
        project.run("dvc", "checkout")
        shown = json.loads(project.run("gpt", *ALL))
        freed = {each["name"] for each in shown["free"]}
        assert freed >= {"models:/shakespeare-gpt/2", f"checkpoints/{given_up.name}", ".dvc/cache"}
        why = {each["name"]: each["why"] for each in shown["kept"]}
        assert "@champion" in why["models:/shakespeare-gpt/1"]
        assert why[f"checkpoints/{living.name}"].endswith(" trains here")
        assert shown["skipped"] == [] and given_up.exists() and unneeded <= cached(project)
        removed = json.loads(project.run("gpt", *ALL, "--apply"))
        assert removed["failed"] == [] and removed["removed_bytes"] > 0
        assert not given_up.exists() and list(living.glob("step_*"))
    finally:
        trainer.kill()
        trainer.communicate()
    assert not unneeded & cached(project) and named <= cached(project)
    assert project.run("gpt", "generate", "to be", "--model", "models:/shakespeare-gpt@champion")
    assert "models:/shakespeare-gpt/1: identical, weights " in project.run("gpt", "reproduce", "@champion")
    project.run("dvc", "checkout")
