"""What work that was cut off has left: folders of half-made outputs, files that killed writers began, places of reproductions,
journals that have arrived, locks of flow runs that ended. What somebody holds by a lock stays, and so does what is to be delivered.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from gpt import paths
from gpt.errors import UserError
from gpt.locks import holder, is_locked, try_lock
from gpt.maintenance.plan import Item, Limits, days_of, first
from gpt.maintenance.workspace import RUNS, WORKSPACE
from gpt.params.finetuning import FOLDER
from gpt.registry.reproduction.place import left_places, remove_place
from gpt.tasks.work import remove_work
from gpt.tracking.spool import is_delivered, lock_path, read_state, remove

_PLACES = (Path("data"), Path("models"), paths.REPORTS.parent, FOLDER, paths.METRICS.parent, paths.TRAINING_PLOT.parent)
"Where stages write: below them lie what they have not finished."
_FLOW_DAYS = 2.0  # the keeper starts a run again that crashed within a day


def look(limits: Limits) -> Iterator[Item]:
    """Yield what is left over in the project."""
    yield from map(_journal_item(limits), sorted(paths.SPOOL.glob("*.jsonl")))
    for place in _PLACES:
        for folder in _hidden(place, ".*.work*"):
            if folder.is_dir():
                yield _item(folder, "unfinished work of a stage", limits, _holder(_work_lock(folder)))
        for partial in _hidden(place, ".*.partial"):
            held = "its writer is at work" if _is_held(partial) else ""
            yield _item(partial, "what a killed writer began", limits, held)
    for root, lock in left_places(Path.cwd()):
        yield _item(root, "where a version was made again", limits, _holder(lock))
    flows = Limits(max(limits.days, _FLOW_DAYS), 0)
    for path in sorted({*RUNS.glob("*.lock"), *RUNS.glob("*.json")} - {WORKSPACE}):
        yield _item(path, "a lock of a flow run that ended", flows, _holder(path.with_suffix(".lock")))


def _hidden(place: Path, pattern: str) -> list[Path]:
    """Return what is named so beside outputs: in the folder of stages, or in that of one recipe. Raw data may be many files."""
    return sorted([*place.glob(pattern), *place.glob(f"*/{pattern}")])


def remove_item(item: Item) -> None:
    """Remove something left over; raise `UserError` if somebody has taken it up meanwhile."""
    path = Path(item.name)
    if path.suffix == ".jsonl":
        _remove_journal(path)
    elif path.suffix == ".partial":
        if _is_held(path):
            raise UserError("its writer is at work")
        _remove(path)
    elif path.parent == RUNS:
        with _held(path.with_suffix(".lock")):
            path.unlink(missing_ok=True)
    elif ".work" in path.name:
        with _held(_work_lock(path)):
            remove_work(path)
    else:
        with _held(path.with_name(f"{path.name}.lock")):
            remove_place(Path.cwd(), path.absolute())


def _journal_item(limits: Limits) -> Callable[[Path], Item]:
    def look_at(journal: Path) -> Item:
        state = read_state(journal)
        stays = first(
            [
                "its run trains now" if is_live(journal) else "",
                "" if is_delivered(journal) else "waits for delivery: `gpt sync`",
                f"refused: {state.blocked or next(iter(state.refused))}" if state.blocked or state.refused else "",
                limits.young(_age(journal)),
            ]
        )
        reason = f"a journal that has arrived, {days_of(_age(journal))}, whose run has nothing to go on from"
        return Item(journal.as_posix(), "leftovers", _size(journal), reason, stays)

    return look_at


def is_live(journal: Path) -> bool:
    """Whether a process has a journal open now, to tell more: a lock of the kernel's, of whoever writes or delivers it."""
    return _is_held(journal) or is_locked(lock_path(journal))


def _remove_journal(journal: Path) -> None:
    lock = try_lock(lock_path(journal))
    if lock is None:
        raise UserError(f"{holder(lock_path(journal))} delivers it")
    with lock:
        if not is_delivered(journal) or _is_held(journal):
            raise UserError("its run goes on")
        remove(journal)


def _item(path: Path, what: str, limits: Limits, held: str) -> Item:
    age = _age(path)
    return Item(path.as_posix(), "leftovers", _size(path), f"{what}, {days_of(age)}", first([held, limits.young(age)]))


def _work_lock(folder: Path) -> Path:
    """Return the lock of a folder of work, `.documents.work.lock`, also of one that was set aside as `.documents.work.0123…`."""
    return folder.with_name(f"{folder.name.partition('.work')[0]}.work.lock")


def _holder(lock: Path) -> str:
    return f"{holder(lock)} works there" if is_locked(lock) else ""


def _held(lock: Path) -> TextIO:
    """Take a lock, to be closed; raise `UserError` if another has it."""
    taken = try_lock(lock)
    if taken is None:
        raise UserError(f"{holder(lock)} works there")
    return taken


def _is_held(path: Path) -> bool:
    """Whether a process has locked a file or folder itself, as those who write it do."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has; or this file system has no locks, and it cannot be told
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """Return how many seconds ago something was last written in a file or folder."""
    written = [path.lstat().st_mtime]
    for below in path.rglob("*") if path.is_dir() else ():
        with suppress(FileNotFoundError):
            written.append(below.lstat().st_mtime)
    return time.time() - max(written)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [below for below in path.rglob("*") if below.is_file()]
    return sum(file.lstat().st_size for file in files)
