"""A text of the Hugging Face hub: which files of a data set, at which commit, and what they hold."""

import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gpt.corpus.reading.files import CODE, FORMATS
from gpt.corpus.reading.streams import COMPRESSIONS
from gpt.errors import UserError
from gpt.params.corpus import Prepare
from gpt.projects.survey import Survey, survey

_ADDRESS = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+?))?(?:/([\w./-]+?))?/?")
_READABLE = {ending for kind, (*_, endings) in FORMATS.items() if kind != CODE for ending in endings}
_LOOKED_AT_BYTES = 200_000_000  # a file that is larger is not downloaded only to look at it


@dataclass(frozen=True)
class HubText:
    """A source for params.yaml, and what is known of its text; of that, None where every file is too large for a look."""

    source: dict[str, Any]
    found: Survey | None
    told: str


def look_at_hub(address: str, settings: Prepare) -> HubText:
    """Return the source for hf://OWNER/NAME[@REVISION][/FOLDER] at the commit that this is now, and a survey of its smallest file.

    Raises `UserError` if the hub cannot be asked, or has no such text.
    """
    from gpt.sources.stores import hub

    repository, revision, folder = _parse(address)
    commit = hub.find_commit(repository, revision or "main")
    files = hub.list_files(repository, commit)
    ending, chosen = _choose(address, {path: file.size for path, file in files.items()}, folder)
    pattern = f"{folder}/*{ending}" if folder else f"*{ending}"
    source = _source(repository, pattern, revision=commit, licence=hub.find_licence(repository, commit) or "not stated")
    size = sum(chosen.values())
    told = f"{repository} at {commit[:7]}, {len(chosen):,} files {pattern}, {size / 1e6:,.1f} MB"
    smallest = min(chosen, key=lambda path: (not chosen[path], chosen[path], path))  # an empty one tells nothing
    if not size:
        raise UserError(
            f"--data {address}: its {len(chosen)} files {pattern} are empty; name another data set or folder"
        )
    if chosen[smallest] > _LOOKED_AT_BYTES:
        return HubText(source, None, f"{told}, too large to look at")
    with tempfile.TemporaryDirectory() as temporary:
        by_name = Path(
            temporary, PurePosixPath(smallest).name
        )  # the cache has it under its hash, which does not tell its form
        by_name.symlink_to(hub.obtain(repository, commit, smallest, files[smallest]))
        try:
            found = survey(by_name, settings)
        except UserError as error:  # it knows the file where it lies now
            raise UserError(str(error).replace(f"--data {by_name}", f"--data {address}: {smallest}")) from None
    return HubText(source, _scaled(found, address, len(chosen), size / chosen[smallest]), told)


def unresolved(address: str) -> dict[str, Any]:
    """Return the source for an address without its commit, which `gpt data hash` finds and writes once there is a network."""
    repository, _, folder = _parse(address)
    return _source(repository, f"{folder}/*" if folder else "*", licence="not stated")


def _parse(address: str) -> tuple[str, str, str]:
    """Return repository, revision and folder of an address, "" for what it does not say."""
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise UserError(f"--data {address}: must be hf://OWNER/NAME, with @REVISION or /FOLDER behind it if need be")
    return parts[1], parts[2] or "", parts[3] or ""


def _source(repository: str, pattern: str, **known: str) -> dict[str, Any]:
    licence = known.pop("licence")
    name = repository.rpartition("/")[2].strip("._-")
    place = {"name": name, "kind": "huggingface", "repository": repository}
    return place | known | {"patterns": [pattern], "licence": licence}


def _choose(address: str, sizes: dict[str, int], folder: str) -> tuple[str, dict[str, int]]:
    """Return the ending that most of the text has, and the files that end so with their sizes."""
    texts = {
        path: size
        for path, size in sizes.items()
        if (not folder or path.startswith(f"{folder}/")) and _ending(path).removesuffix(_compression(path)) in _READABLE
    }
    by_ending = Counter[str]()
    for path, size in texts.items():
        by_ending[_ending(path)] += size
    if not by_ending:
        shown = ", ".join(sorted(sizes)[:3])
        raise UserError(
            f"--data {address}: holds no file of a type that can be read, but {len(sizes)} others, such as {shown}"
        )
    ending = by_ending.most_common(1)[0][0]
    return ending, {path: size for path, size in texts.items() if path.endswith(ending)}


def _compression(path: str) -> str:
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if suffix in COMPRESSIONS else ""


def _ending(path: str) -> str:
    """Return what says how a file is read, as `.jsonl.gz`."""
    compression = _compression(path)
    return PurePosixPath(path.removesuffix(compression)).suffix + compression


def _scaled(found: Survey, address: str, files: int, times: float) -> Survey:
    """Return a survey of one file as an estimate of all."""
    found.name, found.files = address, files
    if files > 1:
        found.scale(times)
    return found
