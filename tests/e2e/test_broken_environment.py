"""Whatever is broken in the environment: no traceback, an exit code of ours, and no file that nobody expects.

`make verify NAMES=environment` tries 200 random ones over all commands; the first of them are tried with all tests.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests import ROOT
from tests.environments import break_environment, entries

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("gpt", "lineage"), ("gpt", "generate", "To be ü", "--max-new-tokens", "2"), ("gpt", "inputs"), ("gpt", "fetch"),
    ("gpt", "tokens", "show", "--sequences", "1"), ("gpt", "data", "diff"), ("gpt", "register", "--json"), ("gpt", "--help"),
    ("gpt", "pretrain"), ("gpt", "prepare"), ("gpt", "tokenizer"), ("gpt", "tokenize"), ("gpt", "data-card"),
    ("gpt", "checkpoints"), ("gpt", "sync"), ("gpt", "evaluate"), ("gpt", "report"), ("gpt", "promote"), ("gpt", "rollback"),
    ("infra.ui",),
    ("gpt", "import", "models/base"), ("gpt", "export", "exported"), ("gpt", "doctor"), ("infra.schedule",), ("flows.pretrain",),
)  # fmt: skip
# What commands make in a project, and what stands in for a user's folders that cannot be written.
EXPECTED = {
    "data", "models", "metrics", "plots", "reports", "checkpoints", "spool", "mlflow.db", "mlflow.db.registry.lock", "mlartifacts",
    ".cache", "params.yaml", "text.jsonl", "exported",
}  # fmt: skip
# Named by the environment itself.
ASKED_FOR = {"relative", "not there", "\udcff"}
SERVES_SECONDS = 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    options = metafunc.config.option
    count, first = options.environments, options.environments_seed
    metafunc.parametrize("seed", range(first, first + count))


def test_a_broken_environment_is_no_traceback(
    seed: int, trained_project: Path, empty_store: Path, copy_project: Callable[..., Path], tmp_path: Path
) -> None:
    project = copy_project(trained_project, train={"max_steps": 2, "eval_interval": 2, "sample_interval": 2})
    shutil.copyfile(empty_store, project / "mlflow.db")
    (project / "docs").mkdir()
    (tmp_path / "tmp").mkdir()
    usual = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_"))},
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path / "home"),
        "GPT_CACHE": str(tmp_path / "cache"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "TMPDIR": str(tmp_path / "tmp"),
        "OMP_NUM_THREADS": "1",
        "VIRTUAL_ENV": sys.prefix,
    }
    choose = random.Random(seed)
    environment, broken = break_environment(usual, choose)
    arguments = COMMANDS[seed % len(COMMANDS)]
    before = entries(project)
    exit_code, output = run(arguments, project if choose.random() < 0.7 else project / "docs", environment)
    said = f"{arguments} with {broken}: exit code {exit_code}\n{output}"
    assert "Traceback" not in output, said
    assert exit_code in (0, 1, 2), said
    left = entries(project) - before - EXPECTED - ASKED_FOR
    assert not left, f"{left}: {said}"
    assert not entries(project / "docs") - {"exported"}, said
    # torch keeps what it compiled for the user there, Prefect and matplotlib what they could keep nowhere else.
    assert not {
        name for name in entries(tmp_path / "tmp") if not name.startswith(("torch", "matplotlib", "prefect"))
    }, said


def run(arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a module as a command; what serves until Ctrl-C is told to stop after some seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SERVES_SECONDS if arguments[0].startswith("infra") else 300)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output.decode("utf-8", "replace")
