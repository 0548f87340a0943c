"""Where a data stage keeps what it has done, so that a killed one goes on: beside its output, until that is whole."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from gpt.errors import UserError
from gpt.files import sha256_file, sha256_json

_LIBRARIES = (
    "datatrove", "ftfy", "lxml", "nltk", "numpy", "orjson", "pyarrow", "regex", "scipy", "spacy", "tiktoken", "trafilatura",
    "warcio", "xxhash", "zstandard",
)  # fmt: skip


@contextmanager
def work_folder(output: Path, inputs: Any) -> Iterator[Path]:
    """Yield `.<output>.work` beside `output`: as the last run left it if it had the same inputs, code and libraries, else empty.

    It is removed in the end. After an error or a kill it stays, and the next run goes on with it; not so after the machine
    was started again: marks of what is done may then be on the disk, and what was done not.
    Raises `UserError` if another process has it.
    """
    package = Path(__file__).parents[1]
    rooms = (package / room for room in ("sources", "corpus", "tokens", "tasks", "reports"))
    files = [
        *sorted(path for room in rooms for path in room.rglob("*.py")),
        package / "files.py",
        *sorted((package / "params").glob("*.py")),
    ]
    identity = {
        "inputs": inputs,
        "code": {path.relative_to(package).as_posix(): sha256_file(path) for path in files},
        "libraries": {library: version(library) for library in _LIBRARIES} | {"python": sys.version},
        "boot": _boot_id(),
    }
    folder = output.parent / f".{output.name}.work"
    output.parent.mkdir(parents=True, exist_ok=True)
    with (output.parent / f"{folder.name}.lock").open("w") as lock:  # stays: who unlinks a lock may unlink another's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output}: another process is making it; wait for it or stop it") from None
        mark = folder / "fingerprint"
        if not mark.exists() or mark.read_text(encoding="utf-8") != sha256_json(identity):
            _remove(folder)
            folder.mkdir()
            mark.write_text(sha256_json(identity), encoding="utf-8")
        yield folder
        _remove(folder)


def write_report(folder: Path, task: int, value: Any) -> None:
    """Write what a task counted, as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task:05d}.json").write_text(json.dumps(value), encoding="utf-8")


def read_reports(folder: Path) -> list[Any]:
    """Return what the tasks counted, in their order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def add_up(reports: Iterable[Any]) -> Any:
    """Return reports of one form as one: numbers added, objects merged, lists joined; keys in order."""
    total: Any = None
    for report in reports:
        if isinstance(report, dict):
            total = {} if total is None else total
            for key, value in report.items():
                total[key] = add_up([total.get(key), value])
        elif report is not None:
            total = report if total is None else total + report
    return {key: total[key] for key in sorted(total)} if isinstance(total, dict) else total


def link_files(paths: Iterable[Path], folder: Path) -> None:
    """Put files into an output folder and leave them in the work folder, until the output is whole."""
    for path in paths:
        os.link(path, folder / path.name)


def _remove(folder: Path) -> None:
    """Remove a work folder, its mark first: one that was removed in part must not be gone on with."""
    (folder / "fingerprint").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=not folder.exists())


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text() if path.exists() else str(round(psutil.boot_time()))
