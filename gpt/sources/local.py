"""Files of the user's own: which of them a path means, and their content by hash, remembered while size and time stay the same."""

import fnmatch
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt import paths
from gpt.errors import UserError
from gpt.files import as_object, lenient_json, sha256_file, write_json
from gpt.params.sources import AnySource, LocalSource, ScriptSource
from gpt.paths import cache_folder
from gpt.sources.hidden import is_hidden, matches, split_pattern
from gpt.sources.manifests import describe_changes, manifest_hash, recall

_SETTLED_NS = 2_000_000_000  # a file that was changed just now may change again within the same tick of its time


class Files(NamedTuple):
    """What a path means: a file, all files of a folder, or those that match a pattern."""

    folder: Path
    names: list[str]
    "Paths below the folder."
    left_out: list[str]
    "Hidden ones, hidden folders, and links to a folder that they lie in themselves, which would never end."
    is_one: bool
    "Whether the path is of the file itself."


def find_files(path: Path) -> Files | None:
    """Return the files that a path means; None if there is nothing. In a pattern `*` crosses folders, as in `members`."""
    if path.is_file():
        return Files(path.parent, [path.name], [], is_one=True)
    if path.is_dir():
        folder, pattern = path, "*"
    else:
        beginning, pattern = split_pattern(path.as_posix())
        folder = Path(beginning or ".")
        if "*" not in path.as_posix() or not folder.is_dir():
            return None
    names, left_out = list[str](), list[str]()
    for name, is_folder in _walk(folder):
        if not is_folder and matches(name, pattern):
            names.append(name)
        elif fnmatch.fnmatchcase(name, pattern):
            left_out.append(name)
    return Files(folder, sorted(names, key=os.fsencode), left_out, is_one=False)


def content_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file, or of the `sha256sum` listing of a folder or pattern, sorted; None if there is no such path."""
    if (files := find_files(path)) is None:
        return None
    hashes = content_hashes(path, files)
    return hashes[path.name] if files.is_one else manifest_hash(hashes)


def describe_sources(sources: Iterable[AnySource]) -> list[dict[str, Any]]:
    """Return what decides the bytes of sources: not their licences, but the content of the user's own files now."""
    described = []
    for source in sources:
        values = source.model_dump(mode="json", exclude={"licence"})
        if isinstance(source, LocalSource):
            values["content"] = content_hash(place_of(source))
        if isinstance(source, ScriptSource):
            values["content"] = content_hash(Path(source.script))
        described.append(values)
    return described


def content_hashes(path: Path, files: Files) -> dict[str, str]:
    """Return the SHA-256 of each file that a path means, by name.

    Hidden files in a folder do not count, as they are not fetched. A file is read again only if its size, times or inode are others
    than when it was read last. The time of change is among them, which nobody can set: a copy with the time of the file that it
    replaces is seen.
    """
    memory = cache_folder("hashes") / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"
    known, seen = _load(memory), {}
    for name in files.names:
        file = files.folder / name
        if not file.is_file():  # a link to nowhere, which `gpt fetch` names
            continue
        state = file.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        stamp_before, digest = known.get(name, (None, ""))
        seen[name] = [stamp, digest if stamp_before == stamp else sha256_file(file)]
    if seen != known:
        newest = time.time_ns() - _SETTLED_NS
        settled = {name: entry for name, entry in seen.items() if max(entry[0][1:3]) < newest}
        write_json(memory, settled)
    return {name: digest for name, (_, digest) in seen.items()}


def describe_change(source: LocalSource, now: dict[str, str], *, is_one: bool) -> str:
    """Return which files differ from those that the hash in params.yaml is of, or which they are, if nobody knows."""
    if is_one:
        return source.path
    # DVC has removed data/raw when a stage runs; where it was pulled, nobody has fetched.
    before = recall(source.sha256) or _fetched(source.name)
    return (
        describe_changes(before, now)
        if manifest_hash(before) == source.sha256
        else f"{len(now)} files in {source.path}"
    )


def place_of(source: LocalSource) -> Path:
    """Return where a source's files lie: beside the project's params.yaml, also for an experiment that runs in a copy of it."""
    return paths.kept(Path(source.path).expanduser())


def check_content(source: LocalSource) -> str | None:
    """Return what differs between a source's files now and its hash in params.yaml; None if nothing does.

    Raises `UserError` if they are not there.
    """
    path = place_of(source)
    if (files := find_files(path)) is None:
        raise UserError(f"path: {path} not found; correct it, or bring the files back")
    hashes = content_hashes(path, files)
    found = hashes[path.name] if files.is_one else manifest_hash(hashes)
    if found == source.sha256:
        return None
    what = describe_change(source, hashes, is_one=files.is_one)
    return f"{path} is not what params.yaml says it is: sha256 is {source.sha256}, but it has {found} ({what})"


def _fetched(name: str) -> dict[str, str]:
    """Return the hashes of the files that data/raw holds of a source, nothing if it holds none."""
    listing = paths.RAW / "sources.json"
    fetched = lenient_json(listing.read_bytes(), list) if listing.exists() else []
    entries = [entry for entry in fetched if as_object(entry).get("name") == name]
    return {
        file: str(as_object(known).get("sha256"))
        for entry in entries
        for file, known in as_object(entry.get("files")).items()
    }


def _walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the path of each file below a folder (False), through links too, and of each folder that is left out (True)."""
    for place, folders, names in os.walk(folder, followlinks=True):
        below = Path(place).relative_to(folder)
        for name in [each for each in folders if is_hidden(Path(each)) or _leads_back(Path(place, each), folder)]:
            folders.remove(name)
            yield (below / name).as_posix(), True
        yield from (((below / name).as_posix(), False) for name in names)


def _leads_back(path: Path, folder: Path) -> bool:
    """Whether a link below `folder` leads to a folder that it lies in itself, also by way of other links."""
    if not path.is_symlink():
        return False
    way = (parent for parent in path.parents if parent.is_relative_to(folder))
    return any(parent.resolve().is_relative_to(path.resolve()) for parent in way)


def _load(memory: Path) -> dict[str, Any]:
    """Return [stamp, hash] by file, as `content_hashes` wrote it; nothing if it did not, or if the file is damaged."""
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
