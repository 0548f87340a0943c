"""What DVC's cache says that a path held, compared with what lies there: by content, as a file's time or mode may tell nothing.

DVC trusts a file of its cache that is read-only. Where the cache and a project share files by links, whoever changes one in the
project has changed the other, under a name that is the hash of what was there.
"""

import hashlib
import json
from pathlib import Path

from gpt.errors import UserError


def dvc_folder(project: Path) -> Path:
    """Return the .dvc folder that DVC finds for a project, upwards."""
    for folder in (project, *project.parents):
        if (folder / ".dvc").is_dir():
            return folder / ".dvc"
    raise UserError(f"{project}: not a DVC project; run this in the project that registered the version, or in a clone")


def cache_of(project: Path) -> Path:
    """Return the folder of DVC's cache of a project; raise `UserError` if its settings cannot be read."""
    from dvc.config import Config
    from dvc.exceptions import DvcException

    folder = dvc_folder(project.resolve())
    try:
        return Path(Config(str(folder))["cache"].get("dir") or folder / "cache").absolute()
    except DvcException as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())}") from None


def object_of(cache: Path, digest: str) -> Path:
    """Return where a cache keeps what has the MD5 `digest`, or the list of a folder's files (`….dir`)."""
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def listing(cache: Path, digest: str) -> dict[str, str]:
    """Return the MD5 of a folder's files by name, {} if the cache has not got it or `digest` is a file's."""
    path = object_of(cache, digest)
    if not digest.endswith(".dir") or not path.exists():
        return {}
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))}


def differing_files(folder: Path, recorded: dict[str, str]) -> dict[str, str]:
    """Return the files of a folder that have not the recorded MD5, and what is the matter with each. Reads all of them."""
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found = {name: "is gone" for name in recorded if name not in here}
    found |= {name: "is new" for name in here if name not in recorded}
    for name in recorded.keys() & here.keys():
        if (now := md5_of(here[name])) != recorded[name]:
            found[name] = f"md5 was {recorded[name]}, is {now}"
    return dict(sorted(found.items()))


def md5_of(path: Path) -> str:
    """Return a file's MD5, as DVC names files."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
