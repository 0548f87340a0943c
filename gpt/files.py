"""Files that exist whole or not at all, and their hashes.

Everything a stage writes goes through here: it is built beside its place, synced, and renamed into it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt.errors import UserError

_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, reading it in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(
    folder: Path, hash_of: Callable[[Path], str] = sha256_file, without: Callable[[Path], bool] = lambda path: False
) -> str:
    """Return one SHA-256 for a folder: of its `<sha256>  <relative path>` lines (the form of `sha256sum`), sorted by path.

    `hash_of` gives a file's, for a caller who knows some already; `without` says of relative paths which do not count.
    """
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = sorted(os.fsencode(path.as_posix()) for path in files if not without(path))
    lines = (f"{hash_of(folder / os.fsdecode(name))}  ".encode() + name + b"\n" for name in names)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def verify_file(path: Path, sha256: str, described_in: str, hint: str) -> None:
    """Raise `UserError` that gives both hashes if a file is not the one that `described_in` tells of."""
    found = sha256_file(path) if path.exists() else "no file"
    if found != sha256:
        raise UserError(f"{path}: SHA-256 is {found}, {described_in} says {sha256}; {hint}")


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it into place on success, remove it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_UMASK)
        fsync_path(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; swap it into place on success, leave `path` as it was on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_UMASK)
        for file in partial.rglob("*"):
            if file.is_file():  # safetensors writes for its owner alone
                file.chmod(0o666 & ~_UMASK)
            fsync_path(file)
        fsync_path(partial)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
            partial.replace(path)
            shutil.rmtree(old)
        else:
            partial.replace(path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, indented and with a final newline, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, hint: str, keys: Iterable[str] = ()) -> Any:
    """Read a JSON file that an earlier step wrote, an object with at least `keys` if there are any.

    Raises `UserError` with `hint` (what to do) if it is missing or broken.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {hint}") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(f"{path}: not valid JSON ({error}); {hint}") from None
    if missing := [key for key in keys if not isinstance(value, dict) or key not in value]:
        raise UserError(f"{path}: has no {', '.join(missing)}; {hint}")
    return value


# It can be read only by setting it, which other threads would see.
_UMASK = os.umask(0)
os.umask(_UMASK)
