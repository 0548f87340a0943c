"""What a machine allows is enough, or is one clear error: open files, places to write to."""

import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt import paths
from gpt.files import read_json
from tests import ROOT
from tests.conftest import Change, small_change, write_params

SHARDS, OPEN_FILES = 36, 32


def write_texts(folder: Path) -> None:
    """Write documents for many shards of tokens."""
    choose, words = random.Random(0), [f"w{number}" for number in range(500)]
    lines = (json.dumps({"text": " ".join(choose.choices(words, k=60))}) for _ in range(300))
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n")


def run(
    folder: Path, *commands: str, before: Callable[[], object] = lambda: None, under: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run commands of gpt in one process, also those after one that fails; the highest exit code is the process's."""
    code = """
import sys
from gpt.commands.main import main
sys.exit(max([main(command.split()) for command in sys.argv[1:]]))
"""
    return subprocess.run(
        [*under, sys.executable, "-c", code, *commands],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_data_may_have_more_shards_than_a_process_may_have_open_files(tmp_path: Path, empty_store: Path) -> None:
    write_texts(tmp_path)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    change: Change = small_change(tmp_path / "text.jsonl")
    change["prepare"]["shards"] = SHARDS
    write_params(tmp_path, change)
    stages = ("fetch", "prepare", "tokenizer", "tokenize", "data-card", "pretrain", "evaluate", "tokens show")
    done = run(tmp_path, *stages, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES)))
    assert done.returncode == 0, done.stderr
    index = read_json(tmp_path / paths.TOKENS / "index.json", "")
    assert len(index["splits"]["train"]["shards"]) > OPEN_FILES


def state(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*")}


@pytest.mark.slow
def test_in_a_project_that_is_read_only_each_command_works_or_says_so(
    trained_project: Path, copy_project: Callable[..., Path]
) -> None:
    folder = copy_project(trained_project)
    before = state(folder)
    reading, writing = (
        ("generate to --max-new-tokens 2", "tokens show", "checkpoints"),
        ("prepare", "tokenize", "evaluate"),
    )
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        under: tuple[str, ...] = ()
    else:  # root may write where nobody else may, but not to a file system that is read-only
        mount = (
            f'mount --bind "{folder}" "{folder}" && mount -o remount,ro,bind "{folder}" && cd "{folder}" && exec "$@"'
        )
        under = ("unshare", "--mount", "sh", "-c", mount, "sh")
        if subprocess.run([*under, "true"], cwd=folder, capture_output=True, check=False).returncode:
            pytest.skip("a read-only file system cannot be made here")
    done = run(folder, *reading, under=under)
    assert done.returncode == 0, done.stderr
    done = run(folder, *writing, under=under)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: ")]
    assert len(errors) == len(writing)
    for line in errors:
        assert re.fullmatch(
            r"error: .*: (Read-only file system|Permission denied); make it writable, or make room", line
        )
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    assert state(folder) == before


def test_without_a_temporary_folder_it_is_said_where_one_was_looked_for(
    trained_project: Path, copy_project: Callable[..., Path]
) -> None:
    folder = copy_project(trained_project, launch={"num_processes": 2, "micro_batch_size": 4})
    done = run(folder, "pretrain", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no temporary folder can be written (")
    assert f"{folder}); set TMPDIR to one that can" in done.stderr


def test_too_few_open_files_are_told_with_what_raises_them(
    trained_project: Path, copy_project: Callable[..., Path]
) -> None:
    folder = copy_project(trained_project)
    code = """
import resource, sys
from gpt.commands.main import main
from gpt.corpus import prepare
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
sys.exit(main(["prepare"]))"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: too many open files: this process may have 3; `ulimit -n 4096` raises that\n"
