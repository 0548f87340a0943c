"""Backups in a folder: the content of every file once, by its SHA-256, and for each backup a manifest that says what it is made of.

A backup is there when its manifest is, which is written last, by a rename, with a hash of its own. So one that was cut off is none,
and what it had copied is not copied again.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt.errors import UserError
from gpt.files import fsync_path, read_json, sha256_file, sha256_json
from gpt.locks import locked

FORMAT = 1
_OBJECTS, _MANIFESTS, _LOCK = "objects", "backups", ".lock"
_CHUNK_BYTES = 1 << 20
_SHOWN = 5

Json = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A file of a backup: its content, and what its place and time were."""

    sha256: str
    size: int
    mtime_ns: int
    mode: int


@dataclass(frozen=True)
class Manifest:
    """What a backup is made of: files by their names, and what else is told of it."""

    name: str
    files: dict[str, Entry]
    about: Json

    @property
    def size(self) -> int:
        """Return the bytes of all its files."""
        return sum(entry.size for entry in self.files.values())


class Store:
    """A folder with backups, which its owner alone can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copied_bytes = 0
        "Bytes that were not there before."

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Let one process write here, and yield a folder for what it makes meanwhile.

        Raises `UserError` if another writes, or the folder holds other things.
        """
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if strange := sorted(there - {_OBJECTS, _MANIFESTS, _LOCK}):
            raise UserError(f"{self.folder}: holds {strange[0]}, which is no backup's; name a folder for backups alone")
        for folder in (self.folder, self.folder / _OBJECTS, self.folder / _MANIFESTS):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        with locked(
            self.folder / _LOCK, 0, lambda who: f"{self.folder}: another backup is written here ({who}); wait for it"
        ):
            for left in [*self.folder.glob(f"{_OBJECTS}/.*"), *self.folder.glob(f"{_MANIFESTS}/.*")]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()  # of one that was killed
            with tempfile.TemporaryDirectory(prefix=".", dir=self.folder / _OBJECTS) as workplace:
                yield Path(workplace)

    def names(self) -> list[str]:
        """Return the names of the backups, the oldest first."""
        return sorted(path.stem for path in (self.folder / _MANIFESTS).glob("*.json"))

    def read(self, name: str | None = None) -> Manifest:
        """Return a backup's manifest, the newest one's if none is named; raise `UserError` if there is none or it is damaged."""
        names = self.names()
        if not names:
            raise UserError(f"{self.folder}: no backup is here; one that was cut off is none")
        if name is not None and name not in names:
            raise UserError(f"{self.folder}: has no backup {name}; it has {', '.join(names[-_SHOWN:])}")
        path = self.folder / _MANIFESTS / f"{name or names[-1]}.json"
        hint = "take another one (--backup NAME)"
        values = read_json(path, hint, ("format", "about", "files", "sha256"))
        if values["format"] != FORMAT:
            raise UserError(
                f"{path}: written by another release of this project (format {values['format']}); use that one"
            )
        if values.pop("sha256") != sha256_json(values):
            raise UserError(f"{path}: damaged: it is not what was written; {hint}")
        return Manifest(path.stem, {key: Entry(**entry) for key, entry in values["files"].items()}, values["about"])

    def write(self, files: dict[str, Entry], about: Json) -> Manifest:
        """Let the files be a backup, from now on."""
        name = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        while name in self.names():
            time.sleep(0.1)
            name = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        values = {
            "format": FORMAT,
            "about": about,
            "files": {key: asdict(entry) for key, entry in sorted(files.items())},
        }
        for folder in (self.folder / _OBJECTS).iterdir():
            fsync_path(folder)
        partial = self.folder / _MANIFESTS / f".{name}.partial"
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(values | {"sha256": sha256_json(values)}, indent=1) + "\n", encoding="utf-8")
        fsync_path(partial)
        partial.replace(partial.with_name(f"{name}.json"))
        fsync_path(partial.parent)
        return Manifest(name, files, about)

    def add(self, path: Path, known: Entry | None = None) -> Entry:
        """Keep a file's content; one of the size and time that are `known` is not read again. Raises `FileNotFoundError`."""
        found = path.stat()
        if known and (known.size, known.mtime_ns) == (found.st_size, found.st_mtime_ns) and self._has(known):
            return known
        handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=self.folder / _OBJECTS)
        partial, digest, size = Path(name), hashlib.sha256(), 0
        try:
            with path.open("rb") as source, os.fdopen(handle, "wb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    size += target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            entry = Entry(digest.hexdigest(), size, found.st_mtime_ns, found.st_mode & 0o777)
            place = self.path_of(entry)
            if not self._has(entry) or sha256_file(place) != entry.sha256:  # what was read anew heals what is damaged
                place.parent.mkdir(mode=0o700, exist_ok=True)
                partial.chmod(0o400)
                partial.replace(place)
                self.copied_bytes += size
            return entry
        finally:
            partial.unlink(missing_ok=True)

    def verify(self, manifest: Manifest) -> None:
        """Read all that a backup is made of; raise `UserError` that names what is gone or is not what was written."""
        damaged = {}
        for entry in set(manifest.files.values()):
            place = self.path_of(entry)
            if not place.is_file():
                damaged[entry.sha256] = "is gone"
            elif sha256_file(place) != entry.sha256:
                damaged[entry.sha256] = "is damaged"
        if damaged:
            of = [
                f"{name} {damaged[entry.sha256]}" for name, entry in manifest.files.items() if entry.sha256 in damaged
            ]
            more = f" and {len(of) - _SHOWN} more" if len(of) > _SHOWN else ""
            raise UserError(
                f"{self.folder}: of the backup {manifest.name} {', '.join(of[:_SHOWN])}{more}; nothing was restored; take another"
                " one (--backup NAME)"
            )

    def extract(self, entry: Entry, target: Path) -> None:
        """Write a file as it was, whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name[:200]}.partial")
        shutil.copyfile(self.path_of(entry), partial)
        partial.chmod(entry.mode)
        os.utime(partial, ns=(entry.mtime_ns, entry.mtime_ns))
        partial.replace(target)

    def prune(self, keep: int) -> None:
        """Remove all backups but the newest `keep`, and content that none of those has; only while writing."""
        names = self.names()
        used = {entry.sha256 for name in names[-keep:] for entry in self.read(name).files.values()}
        for name in names[:-keep]:
            (self.folder / _MANIFESTS / f"{name}.json").unlink()
        for path in (self.folder / _OBJECTS).glob("??/*"):
            if path.name not in used:
                path.unlink()

    def path_of(self, entry: Entry) -> Path:
        """Return where a file's content lies."""
        return self.folder / _OBJECTS / entry.sha256[:2] / entry.sha256

    def _has(self, entry: Entry) -> bool:
        place = self.path_of(entry)
        return place.is_file() and place.stat().st_size == entry.size


def files_below(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their names in it, without links and what is still being written."""
    return {path.relative_to(folder).as_posix(): path for path in _files(folder) if not path.name.endswith(".partial")}


def _files(folder: Path) -> Iterator[Path]:
    """Return the files below a folder; what goes away meanwhile is none. Raises `OSError` for what cannot be read."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for top, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            path = Path(top, name)
            if path.is_file() and not path.is_symlink():
                yield path
