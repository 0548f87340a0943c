"""The version that the default run registers, made again for real: `python -m tests.remaking`.

In a clone of the last commit, in a folder with a space: once left alone, once stopped by SIGTERM and killed by SIGKILL on the way.
The last line says what came of it; the exit code is 1 if anything differs. It trains three times, some minutes each.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from gpt.files import sha256_file
from tests import ROOT
from tests.e2e.conftest import Project

MODEL = "shakespeare-gpt"
VERSION = f"models:/{MODEL}/1"
_SHOWN_LINES = 40


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="made again, ü ") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        project = in_folder(clone)
        began = time.monotonic()
        finish(project.start("flows.pretrain"))
        say("registered", began)
        weights = remake(project, left_alone, stopped_and_killed)
    print(f"identical, left alone and after SIGTERM and SIGKILL; weights {weights}; the project as it was")
    return 0


def in_folder(clone: Path) -> Project:
    unwanted = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "OMP_NUM_THREADS")  # the last as tests/conftest.py sets it
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    return Project(clone, inherited | {"VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(clone)})


def remake(project: Project, *ways: Callable[[Project], str]) -> str:
    """Make the version again in each way, check that it is the same and the project as it was, and return the weights' hash."""
    weights = sha256_file(project.folder / "models/base/model.safetensors")
    before = state(project)
    for way in ways:
        began = time.monotonic()
        said = way(project)
        say(way.__name__, began)
        assert f"{VERSION}: identical, weights {weights}" in said, said
        assert tags(project)["reproduced"].endswith(f"identical, weights {weights}")
        assert state(project) == before, "the project was changed"
    return weights


def left_alone(project: Project) -> str:
    return finish(reproduce(project))


def stopped_and_killed(project: Project) -> str:
    stopped = start(project, "step 250: validation")
    stopped.terminate()
    finish(stopped, 128 + signal.SIGTERM)
    kill_tree(start(project, "step 750: validation"))
    said = finish(reproduce(project))
    assert "step 500: validation" not in said, "it did not go on from its checkpoint"
    return said


def reproduce(project: Project, *options: str) -> "subprocess.Popen[str]":
    return project.start("gpt", "reproduce", VERSION, *options)


def finish(process: "subprocess.Popen[str]", exit_code: int = 0) -> str:
    """Wait for the end of a process and return what it has said since."""
    output, _ = process.communicate()
    assert process.returncode == exit_code, (process.returncode, output)
    print("\n".join(output.splitlines()[-_SHOWN_LINES:]), flush=True)
    return output


def say(what: str, began: float) -> None:
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def start(project: Project, until: str) -> "subprocess.Popen[str]":
    """Start a reproduction and return once it has said something."""
    process = reproduce(project)
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


def tags(project: Project, version: str = "1") -> dict[str, str]:
    return MlflowClient(f"sqlite:///{project.folder}/mlflow.db").get_model_version(MODEL, version).tags


def state(project: Project) -> dict[str, Any]:
    """What a reproduction must leave alone: every file of the project with its time, git's and DVC's view, the runs."""
    status = ["git", "status", "--porcelain"]
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    return {
        "files": dict(_files(project.folder)),
        "status": subprocess.run(status, cwd=project.folder, check=True, capture_output=True, text=True).stdout,
        "worktrees": subprocess.run(["git", "worktree", "list"], cwd=project.folder, capture_output=True).stdout,
        "runs": len(client.search_runs([one.experiment_id for one in client.search_experiments()])),
        "run cache": sorted(path.name for path in (project.folder / ".dvc/cache/runs").rglob("*")),
    }


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int, str]]]:
    """Yield mode, time and content of each file, but for git's and DVC's own, MLflow's database and Python's bytecode."""
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", ".dvc", "__pycache__")]
        for path in (Path(top, name) for name in names if not name.startswith("mlflow.db")):
            status = path.stat()
            yield str(path.relative_to(folder)), (status.st_mode, status.st_mtime_ns, sha256_file(path))


if __name__ == "__main__":
    sys.exit(main())
