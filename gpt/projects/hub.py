"""A text of the Hugging Face hub: which files of a data set, at which commit, and what they hold."""

import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gpt.errors import UserError, located
from gpt.params.corpus import Prepare
from gpt.params.sources import NOT_STATED
from gpt.projects.survey import Survey, survey
from gpt.sources.adding import choose_in_data_set
from gpt.sources.stores.address import parse_hub_address

_LOOKED_AT_BYTES = 200_000_000  # a file that is larger is not downloaded only to look at it


@dataclass(frozen=True)
class HubText:
    """A source for params.yaml, and what is known of its text; of that, None where every file is too large for a look."""

    source: dict[str, Any]
    found: Survey | None
    told: str


def look_at_hub(address: str, settings: Prepare) -> HubText:
    """Return the source for hf://OWNER/NAME[@REVISION][/PATTERN] at the commit that this is now, and a survey of its smallest file.

    Raises `UserError` if the hub cannot be asked, or has no such text.
    """
    from gpt.sources.stores import hub

    with located("--data"):
        named = parse_hub_address(address)
    repository, commit = named.repository, hub.find_commit(named.repository, named.revision)
    files = hub.list_files(repository, commit)
    with located(f"--data {address}"):
        meant = choose_in_data_set(named, {path: file.size for path, file in files.items()})
    pattern, chosen = meant.pattern, {path: files[path].size for path in meant.files}
    source = _source(repository, pattern, revision=commit, licence=hub.find_licence(repository, commit) or NOT_STATED)
    size = sum(chosen.values())
    told = f"{repository} at {commit[:7]}, {len(chosen):,} files {pattern}, {size / 1e6:,.1f} MB"
    if left_out := meant.told(f"hf://{repository}"):
        told += f"; {left_out}"
    smallest = min(chosen, key=lambda path: (not chosen[path], chosen[path], path))  # an empty one tells nothing
    if not size:
        raise UserError(
            f"--data {address}: its {len(chosen)} files {pattern} are empty; name another data set or folder"
        )
    if chosen[smallest] > _LOOKED_AT_BYTES:
        return HubText(source, None, f"{told}, too large to look at")
    with tempfile.TemporaryDirectory() as temporary:
        # The cache has it under its hash, which does not tell its form.
        by_name = Path(temporary, PurePosixPath(smallest).name)
        by_name.symlink_to(hub.obtain(repository, commit, smallest, files[smallest]))
        try:
            found = survey(by_name, settings)
        except UserError as error:  # it knows the file where it lies now
            raise UserError(str(error).replace(f"--data {by_name}", f"--data {address}: {smallest}")) from None
    return HubText(source, _scaled(found, address, len(chosen), size / chosen[smallest]), told)


def unresolved(address: str) -> dict[str, Any]:
    """Return the source for an address without its commit, which `gpt data hash` finds and writes once there is a network."""
    named = parse_hub_address(address)
    return _source(named.repository, named.pattern or "*", licence=NOT_STATED)


def _source(repository: str, pattern: str, **known: str) -> dict[str, Any]:
    licence = known.pop("licence")
    name = repository.rpartition("/")[2].strip("._-")
    place = {"name": name, "kind": "huggingface", "repository": repository}
    return place | known | {"patterns": [pattern], "licence": licence}


def _scaled(found: Survey, address: str, files: int, times: float) -> Survey:
    """Return a survey of one file as an estimate of all."""
    found.name, found.files = address, files
    if files > 1:
        found.scale(times)
    return found
