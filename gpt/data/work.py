"""Where a data stage keeps what it has done, so that a killed one goes on: beside its output, until that is whole."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt.errors import UserError
from gpt.files import sha256_file, sha256_json, write_json

_LIBRARIES = ("datatrove", "ftfy", "regex", "tiktoken", "xxhash")


@contextmanager
def work_folder(output: Path, inputs: Any) -> Iterator[Path]:
    """Yield `.<output>.work` beside `output`: as a killed run left it if that had the same inputs and code, else empty.

    It is removed in the end. After a kill, a full disk or a bug it stays, and the next run goes on with it.
    Raises `UserError` if another process has it.
    """
    code = {path.name: sha256_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))}
    libraries = {library: version(library) for library in _LIBRARIES}
    fingerprint = {"fingerprint": sha256_json({"inputs": inputs, "code": code, "libraries": libraries})}
    folder = output.parent / f".{output.name}.work"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output}: another process is making it; wait for it or stop it") from None
        mark = folder / "fingerprint.json"
        if not mark.exists() or mark.read_text(encoding="utf-8") != _as_written(fingerprint):
            shutil.rmtree(folder)
            folder.mkdir()
            write_json(mark, fingerprint)
        try:
            yield folder
        except UserError:  # what the user changes makes other inputs: what was done is of no use
            _remove(folder, lock.name)
            raise
        _remove(folder, lock.name)


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


def _remove(folder: Path, lock: str) -> None:
    shutil.rmtree(folder)
    Path(lock).unlink()


def _as_written(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
