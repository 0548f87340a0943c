"""Files that this machine has fetched, each under its hash: what one project has brought, another need not.

A download that breaks off leaves what arrived, and the next one goes on from there. Nothing has its hash as its name before all of
its bytes were read again and have it.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from gpt.files import lenient_json, sha256_file, write_json
from gpt.locks import locked
from gpt.paths import cache_folder
from gpt.sources.refusals import OtherContent

Download = Callable[[Path], None]
"Brings a file's bytes to a path, after those that are there already."

_log = logging.getLogger(__name__)
_WAIT_SECONDS = 24 * 3600.0  # for another process that fetches the same file


def cached(digest: str, download: Download, hash_of: Callable[[Path], str] = sha256_file) -> Path:
    """Return the file with a hash, which `download(part)` gets if it is not here; raise `OtherContent` if it brings another one.

    That one is kept too, under its own hash.
    """
    folder = cache_folder("fetch")
    file, part = folder / digest, folder / f"{digest}.part"
    with _alone(part):
        if file.exists():
            if hash_of(file) == digest:
                return file
            file.unlink()  # damaged since it was stored
        went_on = part.exists()
        download(part)
        if (found := hash_of(part)) != digest and went_on:  # what was there may be of another file, or damaged
            _log.warning("%s: what an earlier download had left was damaged; downloaded again from the beginning", part)
            part.unlink()
            download(part)
            found = hash_of(part)
        if found != digest:
            part.replace(folder / found)  # whoever accepts it need not fetch it again
            raise OtherContent(digest, found)
        part.replace(file)
    return file


def is_cached(digest: str) -> bool:
    """Whether a file with a hash was fetched to this machine before."""
    return (cache_folder("fetch") / digest).exists()


def find_hash(address: str, stamp: str | None, download: Download) -> str:
    """Return the SHA-256 of a file that nobody has said the hash of, and keep the file under it.

    `stamp` is what the store says of this version of the file, such as its ETag. With one, a download that broke off is gone on
    with, and a version that was brought before is not brought again; without, it begins anew: two halves of two versions would
    make a file that never was. So it does if this machine was started since: of what a power cut left nobody knows whether it
    reached the disk, and there is no hash to tell.
    """
    folder = cache_folder("fetch")
    part = folder / f"new-{hashlib.sha256(f'{address} {stamp}'.encode()).hexdigest()}.part"
    with _alone(part):
        if stamp and (digest := _noted(address, stamp)) and (folder / digest).exists():
            return digest
        if not stamp or _is_of_an_earlier_boot(part):
            part.unlink(missing_ok=True)
        download(part)
        digest = sha256_file(part)
        part.replace(folder / digest)
    note(address, stamp, digest)
    return digest


def _is_of_an_earlier_boot(part: Path) -> bool:
    return part.exists() and part.stat().st_mtime < psutil.boot_time()


def note(address: str, stamp: str | None, digest: str) -> None:
    """Remember the hash of a version of a file, for `find_hash`."""
    if stamp:
        write_json(_note_file(address), {"stamp": stamp, "sha256": digest})


def _noted(address: str, stamp: str) -> str | None:
    file = _note_file(address)
    known = lenient_json(file.read_bytes()) if file.exists() else {}
    return known.get("sha256") if known.get("stamp") == stamp else None


def _note_file(address: str) -> Path:
    return cache_folder("hashes") / f"{hashlib.sha256(address.encode()).hexdigest()}.address.json"


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Let no other process fetch the same file meanwhile: two that append to one file would spoil it."""
    part.parent.mkdir(parents=True, exist_ok=True)
    lock = part.with_suffix(".lock")
    with locked(lock, _WAIT_SECONDS, lambda holder: f"{holder} fetches the same file; wait for it, or stop it"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
