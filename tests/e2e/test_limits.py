"""What a machine allows is enough, or is one clear error: open files, places to write to."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt import paths
from gpt.files import read_json
from tests.conftest import ROOT, Change, small_change, write_params

SHARDS, OPEN_FILES = 36, 32


def write_texts(folder: Path) -> None:
    """Write documents for many shards of tokens."""
    choose, words = random.Random(0), [f"w{number}" for number in range(500)]
    lines = (json.dumps({"text": " ".join(choose.choices(words, k=60))}) for _ in range(300))
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n")


def run(
    folder: Path, *commands: str, before: Callable[[], object] = lambda: None
) -> "subprocess.CompletedProcess[str]":
    """Run commands of gpt in one process."""
    code = "import sys; from gpt.commands.main import main\nfor name in sys.argv[1:]:\n    main(name.split()) and sys.exit(name)"
    return subprocess.run(
        [sys.executable, "-c", code, *commands],
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
