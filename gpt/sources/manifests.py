"""Which files a source of many has, each with its hash: data/manifests/NAME.sha256, in the form of `sha256sum`, kept in git.

The source's own hash is that of the manifest: it fixes every file, whatever the store holds by now.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from gpt import paths
from gpt.errors import UserError
from gpt.files import atomic_file, sha256_listing
from gpt.paths import cache_folder
from gpt.sources.hidden import shown


def manifest_file(name: str) -> Path:
    """Return where the manifest of a source lies."""
    return paths.MANIFESTS / f"{name}.sha256"


def read_manifest(name: str, sha256: str) -> dict[str, str]:
    """Return the hash of each file of a source by its path; raise `UserError` if its manifest is missing or another one."""
    file = manifest_file(name)
    accept = f"`gpt data hash {name}` writes it anew, from what the store holds now"
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}, which lists its files, is not there; bring it back from git, or {accept}") from None
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(
            f"{file}, which lists its files, has sha256 {found}, and params.yaml says {sha256}; bring back from git the one"
            f" that belongs to the other, or {accept}"
        )
    return _parse(content)


def write_manifest(name: str, hashes: Mapping[str, str]) -> None:
    """Write the manifest of a source."""
    with atomic_file(manifest_file(name)) as partial:
        partial.write_bytes(sha256_listing(hashes))


def remember(hashes: Mapping[str, str]) -> None:
    """Keep a listing on this machine, under its hash: of a local folder that has changed since, `recall` knows what it was."""
    known = _memory(manifest_hash(hashes))
    if not known.exists():
        with atomic_file(known) as partial:
            partial.write_bytes(sha256_listing(hashes))


def recall(sha256: str) -> dict[str, str]:
    """Return the listing with a hash, nothing if this machine does not know it."""
    known = _memory(sha256)
    content = known.read_bytes() if known.exists() else b""
    return _parse(content) if hashlib.sha256(content).hexdigest() == sha256 else {}


def manifest_hash(hashes: Mapping[str, str]) -> str:
    """Return the hash of a source of these files."""
    return hashlib.sha256(sha256_listing(hashes)).hexdigest()


def describe_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return in words which files differ: `changed: 2 (a.txt, b.txt); new: 1 (c.txt)`, nothing if none does."""
    groups = {
        "changed": [path for path in before.keys() & now.keys() if before[path] != now[path]],
        "new": now.keys() - before.keys(),
        "gone": before.keys() - now.keys(),
    }
    return "; ".join(f"{word}: {shown(names)}" for word, names in groups.items() if names)


def _parse(content: bytes) -> dict[str, str]:
    lines = os.fsdecode(content).split("\n")[:-1]
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def _memory(sha256: str) -> Path:
    return cache_folder("hashes") / f"{sha256}.listing"
