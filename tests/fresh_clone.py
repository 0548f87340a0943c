"""`make demo` in a fresh clone of the last commit, as a new user does it: `python -m tests.fresh_clone`.

The last line says what came of it; the exit code is 1 if dvc.lock or `git status` differ and the run's last lines do not say why.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.keeping import DIFFERS
from tests import ROOT


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="fresh_clone_") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        committed = (clone / "dvc.lock").read_text(encoding="utf-8")
        python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
        demo = subprocess.run(
            ["make", "demo", f"PYTHON={python}"],
            cwd=clone,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(demo.stdout)
        if demo.returncode:
            print(f"`make demo` ended with exit code {demo.returncode}")
            return 1
        differing = different_stages(committed, (clone / "dvc.lock").read_text(encoding="utf-8"))
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
        ).stdout
    closing = demo.stdout[demo.stdout.rindex("Held-out text") :]
    is_explained = DIFFERS in closing
    print(describe(differing, status, is_explained))
    return 0 if is_explained or not (differing or status) else 1


def clean_environment() -> dict[str, str]:
    """Return the environment without what leads to this project's own things, or to its servers."""
    inherited = ("VIRTUAL_ENV", "PYTHONPATH", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MAKEFLAGS", "MAKELEVEL")
    return {name: value for name, value in os.environ.items() if name not in inherited}


def different_stages(committed: str, made: str) -> list[str]:
    """Return the stages whose entries differ between two texts of dvc.lock."""
    before, after = (YAML(typ="safe").load(text)["stages"] for text in (committed, made))
    names: list[Any] = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return names


def describe(differing: list[str], status: str, is_explained: bool) -> str:
    """Say in one line what a fresh clone's dvc.lock and `git status` look like after the run."""
    lock = f"dvc.lock differs in {', '.join(differing)}" if differing else "dvc.lock as committed"
    files = " ".join(line.split()[-1] for line in status.splitlines())
    changed = f"changed: {files}" if status else "git status clean"
    why = " (the last lines say why)" if is_explained and (differing or status) else ""
    return f"{lock}, {changed}{why}"


if __name__ == "__main__":
    sys.exit(main())
