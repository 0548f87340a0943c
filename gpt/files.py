"""Files that exist whole or not at all, and their hashes.

Everything a stage writes goes through here: it is built beside its place, synced, and renamed into it.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from gpt.errors import UserError

_CHUNK_BYTES = 1 << 20
# Ends of the hidden names `.<name>.<8 letters>.<end>` beside a file or folder that is written.
_PARTIAL, _ASIDE = ".partial", ".aside"


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
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    hashes = {name: hash_of(folder / name) for name in files if not without(Path(name))}
    return hashlib.sha256(sha256_listing(hashes)).hexdigest()


def sha256_listing(hashes: Mapping[str, str]) -> bytes:
    """Return hashes of files by their relative path in the form of `sha256sum`, sorted by path."""
    named = sorted((os.fsencode(name), digest) for name, digest in hashes.items())
    return b"".join(f"{digest}  ".encode() + name + b"\n" for name, digest in named)


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
    """Yield a path beside `path` to write to; rename it into place on success, remove it on failure.

    What a killed writer has left beside `path` is removed.
    """
    with _partial(path, is_folder=False) as partial:
        yield partial
        partial.chmod(0o666 & ~_UMASK)
        fsync_path(partial)
        partial.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; put it in its place on success, leave `path` as it was on failure.

    Old and new folder change places in one step, so that a reader finds one of them whole at every instant. Where the system cannot
    do that (`exchange`), the old one is renamed aside, then the new one into place: between the two a reader finds none, and if
    the writer is killed there, the next one begins by putting the old folder back. What a killed writer has left is removed.
    """
    with _partial(path, is_folder=True) as partial:
        yield partial
        partial.chmod(0o777 & ~_UMASK)
        for file in partial.rglob("*"):
            if file.is_symlink():
                continue  # what it points at is somebody else's
            if file.is_file():  # safetensors writes for its owner alone
                file.chmod(0o666 & ~_UMASK)
            fsync_path(file)
        fsync_path(partial)
        if not _took_free_place(partial, path) and not exchange(partial, path):
            _replace_in_two_steps(partial, path)
        fsync_path(path.parent)


def _took_free_place(partial: Path, path: Path) -> bool:
    """Rename a folder to where none is; return False if one is there, also if it came in this moment."""
    if path.exists():
        return False
    try:
        partial.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def exchange(first: Path, second: Path) -> bool:
    """Let two files or folders change places in one step; return False, with nothing changed, where that cannot be done.

    Linux and macOS can on their own file systems, not on NFS.
    """
    import ctypes

    libc, names = ctypes.CDLL(None), (os.fsencode(first), os.fsencode(second))
    here, swap = -100, 2  # AT_FDCWD; RENAME_EXCHANGE of renameat2(2), RENAME_SWAP of renamex_np(2)
    try:
        if sys.platform == "darwin":
            return libc.renamex_np(*names, swap) == 0
        return libc.renameat2(here, names[0], here, names[1], swap) == 0
    except AttributeError:  # an older C library, or another
        return False


def _replace_in_two_steps(partial: Path, path: Path) -> None:
    aside = partial.with_suffix(_ASIDE)
    old = os.open(path, os.O_RDONLY)
    try:
        _lock(old)  # or another writer might put it back meanwhile
        path.replace(aside)
        partial.replace(path)
        fsync_path(path.parent)
        _remove(aside)
    finally:
        os.close(old)


@contextmanager
def _partial(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield a new file or folder beside `path`, removed in the end if it is still there.

    It is locked meanwhile: what is not, a killed writer has left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(path)
    partial, descriptor = _new_partial(path, is_folder=is_folder)
    try:
        yield partial
    finally:
        _remove(partial)
        os.close(descriptor)


def _new_partial(path: Path, *, is_folder: bool) -> tuple[Path, int]:
    """Return a new file or folder beside `path`, and the descriptor that locks it."""
    place = {"prefix": f".{path.name}.", "suffix": _PARTIAL, "dir": path.parent}
    while True:
        if is_folder:
            partial = Path(tempfile.mkdtemp(**place))
        else:
            handle, name = tempfile.mkstemp(**place)
            os.close(handle)
            partial = Path(name)
        with suppress(FileNotFoundError):
            descriptor = os.open(partial, os.O_RDONLY)
            if _lock(descriptor) is not False and partial.exists():
                return partial, descriptor
            os.close(descriptor)  # another writer saw it before it was locked, and removes it


def _clear_up(path: Path) -> None:
    """Remove what killed writers of `path` have left beside it, and put back a folder that one of them had moved aside."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}({re.escape(_PARTIAL)}|{re.escape(_ASIDE)})")
    for left in [entry for entry in path.parent.iterdir() if ours.fullmatch(entry.name)]:
        try:
            descriptor = os.open(left, os.O_RDONLY)
        except OSError:  # another writer has just removed it
            continue
        try:
            if _lock(descriptor):
                if left.suffix == _ASIDE and not path.exists():
                    left.replace(path)
                else:
                    _remove(left)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file or folder; return False if another process has, None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; what cannot be removed, the next writer tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
        raise not_found(path, hint) from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(f"{path}: not valid JSON ({error}); {hint}") from None
    if missing := [key for key in keys if not isinstance(value, dict) or key not in value]:
        raise UserError(f"{path}: has no {', '.join(missing)}; {hint}")
    return value


def not_found(path: Path, hint: str) -> UserError:
    """Return the error of a file that is missing. What writes it may never have run: "run it again" becomes "run it first"."""
    advice = re.sub(r"^(run .*) again$", r"\1 first", hint)
    return UserError(f"{path}: not found; {advice}")


# It can be read only by setting it, which other threads would see.
_UMASK = os.umask(0)
os.umask(_UMASK)


def as_object(value: Any) -> dict[str, Any]:
    """Return a JSON object, an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def lenient_json(content: bytes, kind: type = dict) -> Any:
    """Return the JSON value of a kind that a file of an earlier release holds, an empty one if it holds none."""
    try:
        value = json.loads(content)
    except ValueError:
        return kind()
    return value if isinstance(value, kind) else kind()


def parse_yaml(text: str) -> Any:
    """Return the value of a text in YAML 1.2, as DVC reads it: 1e-3 is a number, `no` is a word, a key given twice is an error.

    What this process has parsed before is copied: a params.yaml takes 30 ms. Raises ruamel's `YAMLError`, or `ValueError` for
    a date that is none.
    """
    return deepcopy(_parse_once(text))


@lru_cache(maxsize=16)
def _parse_once(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def lenient_yaml(content: bytes) -> dict[str, Any]:
    """Return the YAML mapping that a file of an earlier release holds, an empty one if it holds none."""
    from ruamel.yaml.error import YAMLError

    try:
        return as_object(parse_yaml(content.decode()))
    except (YAMLError, UnicodeDecodeError):
        return {}
