"""Files of the user's own: their content by hash, remembered while a file's size and time stay the same."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from gpt.files import sha256_file, sha256_tree, write_json
from gpt.paths import cache_folder
from gpt.sources.hidden import is_hidden

_SETTLED_NS = 2_000_000_000  # a file that was changed just now may change again within the same tick of its time


def content_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file, or of a folder's `sha256sum` listing in sorted order; None if there is no such path.

    Hidden files in a folder do not count, as they are not fetched. A file is read again only if its size, times or inode are others
    than when it was read last. The time of change is among them, which nobody can set: a copy with the time of the file that it
    replaces is seen.
    """
    if not path.exists():
        return None
    memory = cache_folder("hashes") / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"
    known, seen = _load(memory), {}

    def hash_of(file: Path) -> str:
        state, name = file.stat(), file.relative_to(path).as_posix()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        stamp_before, digest = known.get(name, (None, ""))
        if stamp_before != stamp:
            digest = sha256_file(file)
        seen[name] = [stamp, digest]
        return digest

    found = sha256_tree(path, hash_of, without=is_hidden) if path.is_dir() else hash_of(path)
    if seen != known:
        newest = time.time_ns() - _SETTLED_NS
        settled = {name: entry for name, entry in seen.items() if max(entry[0][1:3]) < newest}
        write_json(memory, settled)
    return found


def _load(memory: Path) -> dict[str, Any]:
    """Return [stamp, hash] by file, as `content_hash` wrote it; nothing if it did not, or if the file is damaged."""
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {
        name: entry
        for name, entry in known.items()
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
    }
