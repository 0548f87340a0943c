"""DVC at work in the place where a version is made again: its stages run, each looked at as it ends.

Stages are forced by what is not there: neither dvc.lock nor a run cache says that anything was done. So what an attempt that was
stopped has done, and only that, DVC knows when it goes on; training goes on from its last checkpoint.
"""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from gpt.errors import Interrupted
from gpt.files import atomic_file, parse_yaml
from gpt.registry.lineage import DVC_LOCK
from gpt.registry.record import list_stages
from gpt.registry.reproduction.content import dvc_folder
from gpt.registry.reproduction.place import Place
from gpt.registry.reproduction.trees import FOLDER, run_tree
from gpt.tracking import store

_REMEMBERED_LINES = 60
_NEWS = re.compile(r"(?:Running stage|Stage) '([^']+)'")
_ENDED = re.compile(r"ERROR: failed to reproduce '([^']*)': failed to run: .*, exited with (-?\d+)$")
_DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
_SAVED = "stages.lock"  # DVC does not write dvc.lock in one piece
# What another project, stage or experiment has set.
_OTHERS = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")

Json = dict[str, Any]


class StageFailed(Exception):
    """A stage that did not end well: its name, its last words, its exit code."""

    def __init__(self, stage: str, message: str, exit_code: int) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage, self.message, self.exit_code = stage, message, exit_code


def run_stages(
    place: Place, threads: int | None, look: Callable[[str, Json], bool], tell: Callable[[str], object]
) -> None:
    """Run the stages that are not done yet; `look(stage, outs)` sees each that has ended, and stops the rest by returning False.

    Raises `StageFailed`; `Interrupted` after a signal, `KeyboardInterrupt`: then nothing is left running, and it can go on.
    """
    _restore_lock(place)
    _remove_database(place)
    seen: set[str] = set()

    def look_at_new() -> bool:
        stages = _read_lock(place.project / DVC_LOCK)
        if stages is None:
            return True  # DVC is writing it
        save_lock(place)
        for name in [name for name in stages if name not in seen]:
            seen.add(name)
            if not look(name, stages[name]["outs"]):
                return False
        return True

    said: list[str] = []

    def on_line(line: str) -> bool:
        said.append(line)
        del said[:-_REMEMBERED_LINES]
        tell(line)
        return not _NEWS.match(line) or look_at_new()

    with _signals():
        code, stopped = run_tree([*_DVC, "repro"], place.project, place.lock, environment(place, threads), on_line)
    if stopped:
        return
    if code:
        raise failure(said, code)
    look_at_new()


def environment(place: Place, threads: int | None = None) -> dict[str, str]:
    """Return the variables that DVC and the stages get: the worktree's code, a store of its own, as many threads as then."""
    path = os.pathsep.join(filter(None, (str(place.project), os.environ.get("PYTHONPATH"))))
    return {
        **{name: value for name, value in os.environ.items() if name not in _OTHERS},
        FOLDER: str(place.root),
        "VIRTUAL_ENV": sys.prefix,  # dvc.yaml finds `gpt` by it
        "PYTHONPATH": path,
        "MLFLOW_TRACKING_URI": store.address_of(place.database),
        "SHELL": "/bin/sh",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_DAEMON": "1",
        **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
    }


@contextmanager
def _signals() -> Iterator[None]:
    """Raise `Interrupted` at SIGTERM and SIGHUP, so that the tree is stopped with us."""

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(number, "stopped; run `gpt reproduce` again to go on")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_dvc(place: Place, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """Run a command of DVC in the worktree, with some variables set; return its exit code and its lines."""
    said: list[str] = []

    def on_line(line: str) -> bool:
        said.append(line)
        return True

    with _signals():
        code, _ = run_tree([*_DVC, *arguments], place.project, place.lock, environment(place) | variables, on_line)
    return code, said


def _read_lock(path: Path) -> Json | None:
    """Return the stages of a dvc.lock, none if there is no file; None if it is cut short."""
    try:
        content = path.read_bytes()
        if not isinstance(parse_yaml(content.decode()).get("stages"), dict):
            return None
        return list_stages(content)
    except FileNotFoundError:
        return {}
    except (YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
        return None


def save_lock(place: Place) -> None:
    """Keep a copy of the worktree's dvc.lock, which is whole now."""
    source = place.project / DVC_LOCK
    if source.exists():
        with atomic_file(place.root / _SAVED) as partial:
            partial.write_bytes(source.read_bytes())


def _restore_lock(place: Place) -> None:
    """Put the last whole dvc.lock back if a kill has cut it short."""
    if _read_lock(place.project / DVC_LOCK) is None:
        (place.project / DVC_LOCK).unlink()
        with suppress(FileNotFoundError):
            content = (place.root / _SAVED).read_bytes()
            (place.project / DVC_LOCK).write_bytes(content)
    (dvc_folder(place.project) / "tmp/rwlock").unlink(
        missing_ok=True
    )  # what a killed DVC leaves; nobody else works here


def _remove_database(place: Place) -> None:
    """Remove MLflow's database, which a kill may have left half made; training tells a new one all that it has to tell."""
    for path in place.root.glob(f"{place.database.name}*"):
        path.unlink()


def failure(said: list[str], code: int) -> StageFailed:
    """Return what a failed `dvc repro` comes to: the stage's own error, else DVC's."""
    stage = "dvc"
    for number, line in enumerate(said):
        if ended := _ENDED.match(line):
            stage, code, said = ended[1], int(ended[2]), said[:number]
            break
    errors = [
        line.removeprefix("error: ").removeprefix("ERROR: ") for line in said if line.lower().startswith("error: ")
    ]
    return StageFailed(stage, "\n".join(errors) or (said[-1] if said else "failed"), code)
