"""DVC links outputs to its cache instead of copying them: read-only, one file on the disk. No stage may write through a link."""

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Project

REPRO = ("dvc", "repro")
LARGE = ("data/documents/train_00000.jsonl", "data/tokens/train_00000.bin", "models/base/model.safetensors")


def cached_files(project: Project) -> dict[Path, str]:
    """Return the files of DVC's cache and the MD5 that each is named by."""
    root = project.folder / ".dvc/cache/files/md5"
    return {path: path.parent.name + path.name.removesuffix(".dir") for path in root.glob("*/*")}


def check_cache(project: Project) -> None:
    for path, md5 in cached_files(project).items():
        assert hashlib.md5(path.read_bytes()).hexdigest() == md5, path


@pytest.mark.slow
def test_outputs_lie_on_the_disk_once_and_no_stage_writes_through_a_link(make_project: Callable[..., Project]) -> None:
    project = make_project()
    project.run(*REPRO)
    inodes = {path.stat().st_ino for path in cached_files(project)}
    for name in LARGE:
        status = (project.folder / name).stat()
        assert status.st_ino in inodes, "the same file, under a second name"
        assert not status.st_mode & stat.S_IWUSR
    check_cache(project)
    project.run("gpt", "pretrain")
    project.run("gpt", "evaluate")
    check_cache(project)
    project.change(tokenize={"shuffle_seed": 2})
    project.run(*REPRO, "tokenize")
    project.change(tokenize={"shuffle_seed": 1})
    assert project.stages_run(project.run(*REPRO, "tokenize")) == ["inputs"], (
        "the cache brings back what was made before"
    )
    project.run("gpt", "tokens", "verify")
    (project.folder / LARGE[2]).unlink()
    project.run("dvc", "checkout", "models/base")
    project.run("gpt", "generate", "to be")
    check_cache(project)
