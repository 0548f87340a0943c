"""Checkpoints that exist or do not: `checkpoints/<fingerprint>/step_00000500/`.

A checkpoint is written beside its place and synced, its manifest (sizes and hashes) last, then renamed into place; older ones are
removed after that.
Reading verifies every byte; a damaged one is skipped with a warning and the one before it used. Tensors are safetensors and all
else JSON: torch.distributed.checkpoint would put a pickle beside them, and what is unpickled can run code.
"""

import errno
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gpt import locks
from gpt.errors import UserError
from gpt.files import exchange, fsync_path, sha256_file, write_json
from gpt.processes.owner import OWNER

MANIFEST, _STATE, _LOCK, _OLD = "manifest.json", "state.json", "lock", ".old_"

FORMAT = 4
"Of state.json: raised whenever `RunState` gets, loses or renames a field. 1 had no number."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on: full tensors on the CPU, and what `RunState.to_json` returned."""

    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]
    is_scheduled: bool = True
    "Saved because `checkpoint_interval` asked for it, not because of a signal."


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint below `folder`; raise `OSError` if that fails, with what was there as it was."""
    target = folder / name_of(checkpoint.step)
    partial = Path(tempfile.mkdtemp(prefix=".partial_", dir=folder))
    try:
        try:
            save_file(_contiguous(checkpoint.weights), partial / "model.safetensors")
            save_file(_contiguous(checkpoint.optimizer), partial / "optimizer.safetensors")
        except SafetensorError as error:
            if not (number := re.search(r"os error (\d+)", str(error))):
                raise
            code = int(number[1])  # the library wraps what the system said
            raise OSError(code, os.strerror(code), str(target)) from error
        about = {"format": FORMAT, "step": checkpoint.step, "is_scheduled": checkpoint.is_scheduled}
        write_json(partial / _STATE, about | {"state": checkpoint.state})
        manifest = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in sorted(partial.iterdir())
        }
        for path in partial.iterdir():
            fsync_path(path)
        write_json(partial / MANIFEST, manifest)
        fsync_path(partial)
        old = folder / f"{_OLD}{target.name}"
        if not (target.exists() and exchange(partial, target)):
            if target.exists():  # until the next line there is none; `clean_up` puts it back after a kill
                target.replace(old)
            partial.replace(target)
        fsync_path(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def prune(folder: Path, newest: int, keep_last: int, keep_every: int) -> None:
    """Keep the checkpoint of step `newest`, the last `keep_last` scheduled ones, and those of every `keep_every` steps (0: none).

    Those of later steps go: training would have resumed from them if they were whole.
    """
    remove_newer(folder, newest)
    saved = [path for path in steps(folder) if step_of(path) <= newest]
    kept = {*saved[-1:], *[path for path in saved if _is_scheduled(path)][-keep_last:]}
    for path in saved:
        if path not in kept and (not keep_every or step_of(path) % keep_every):
            remove_one(path)


def _is_scheduled(path: Path) -> bool:
    try:
        return bool(_read_state(path)["is_scheduled"])
    except (OSError, ValueError, KeyError):
        return False  # it is damaged, or of another format


def remove_newer(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps than `step`, the newest first; not those that another version of gpt can go on from."""
    for path in reversed(steps(folder)):
        if step_of(path) > step and other_format(path) is None:
            remove_one(path)


def remove_one(path: Path) -> None:
    """Remove a checkpoint. It is renamed first: what a kill leaves of it is not taken for a damaged one."""
    removed = path.with_name(f".partial_{path.name}")
    path.replace(removed)
    shutil.rmtree(removed)


def load_latest(folder: Path, *, only_scheduled: bool = False) -> Checkpoint | None:
    """Return the newest whole checkpoint below `folder`, or None; warn of each damaged one, and once of those of another format."""
    found, others = None, []
    for path in reversed(steps(folder)):
        if other_format(path) is not None:
            others.append(path)
            continue
        if damage := find_damage(path):
            logger.warning("%s is damaged (%s); trying the one before it", path, damage)
            continue
        if only_scheduled and not _is_scheduled(path):
            continue
        found = load_whole(path)
        break
    if others:
        logger.warning(
            "%s: %d checkpoint(s) up to %s are of format %s, which this version of gpt cannot go on from (it writes format %d);"
            " training goes on from step %d; to use them, stop it and take the version of gpt that wrote them",
            folder,
            len(others),
            others[0].name,
            other_format(others[0]),
            FORMAT,
            found.step if found else 0,
        )
    return found


def load_whole(path: Path) -> Checkpoint:
    """Return a checkpoint that was found undamaged."""
    about = _read_state(path)
    weights, optimizer = load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")
    return Checkpoint(about["step"], weights, optimizer, about["state"], about["is_scheduled"])


def other_format(path: Path) -> int | None:
    """Return the format of a checkpoint of another version of gpt; None if it is this one's, or too damaged to say."""
    try:
        found = _read_state(path).get("format", 1)
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) and found != FORMAT else None


def _read_state(path: Path) -> dict[str, Any]:
    return json.loads((path / _STATE).read_text(encoding="utf-8"))


def run_of(path: Path) -> str | None:
    """Return the name of the MLflow run that a whole checkpoint of this format belongs to, None before it had one."""
    return _read_state(path)["state"]["run"]


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if every file has the size and hash that its manifest gives."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            file = path / name
            if not file.exists():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {expected['bytes']}"
            if sha256_file(file) != expected["sha256"]:
                return f"{name} has another SHA-256 than its manifest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            raise  # this process has had enough; the checkpoint is as good as it was
        return f"{MANIFEST} cannot be read: {error}"
    return None if {"model.safetensors", "optimizer.safetensors", _STATE} <= manifest.keys() else "incomplete manifest"


@contextmanager
def single_trainer(folder: Path) -> Iterator[None]:
    """Lock the checkpoint folder for this process; raise `UserError` that names the holder if another has locked it.

    The kernel drops the lock when its holder dies, however it dies.
    """
    # Of several processes the one whose end is the others'.
    lock = locks.try_lock(folder / _LOCK, os.environ.get(OWNER))
    if lock is None:
        holding = locks.holder(folder / _LOCK)
        raise UserError(f"{folder}: {holding} trains here; wait for it or stop it, then run this again")
    with lock:
        clean_up(folder)
        yield


def clean_up(folder: Path) -> None:
    """Put back a checkpoint that a killed save had moved aside to replace it; remove everything else that it left."""
    for old in folder.glob(f"{_OLD}*"):
        target = folder / old.name.removeprefix(_OLD)
        if not target.exists():
            old.replace(target)
    for rest in [*folder.glob(".partial_*"), *folder.glob(f"{_OLD}*")]:
        shutil.rmtree(rest, ignore_errors=True)


def holder(folder: Path) -> str | None:
    """Return which process trains in a checkpoint folder now, or None."""
    return locks.holder(folder / _LOCK) if locks.is_locked(folder / _LOCK) else None


def remove(folder: Path) -> None:
    """Remove a finished run's folder, so that training it again really trains."""
    for path in steps(folder):
        remove_one(path)
    shutil.rmtree(folder, ignore_errors=True)  # NFS keeps the lock as long as we hold it


def steps(folder: Path) -> list[Path]:
    """Return the checkpoints below `folder`, whole or damaged, oldest first."""
    return sorted(folder.glob("step_*"))


def name_of(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int:
    """Return the optimizer step that a checkpoint's name tells."""
    return int(path.name.removeprefix("step_"))


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
