"""What fixes the bytes of a source, found and written into params.yaml: hashes, manifests, commits.

Whoever adds a source writes where it is; `gpt data hash` and `gpt fetch --accept` write what it is.
"""

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from gpt.errors import UserError, located
from gpt.params.changes.editing import Kind, Values, read_sources, set_in_source, write_text
from gpt.params.project import explained
from gpt.params.sources import HuggingFaceSource, LocalSource, PypiSource, Source, UrlSource
from gpt.sources.fetch import cached_distribution, cached_file, cached_files
from gpt.sources.hidden import shown
from gpt.sources.local import content_hash, content_hashes, find_files, place_of
from gpt.sources.manifests import (
    describe_changes,
    manifest_file,
    manifest_hash,
    read_manifest,
    recall,
    remember,
    write_manifest,
)
from gpt.sources.refusals import OtherContent
from gpt.sources.stores import hub, remote
from gpt.sources.stores.cache import find_hash
from gpt.sources.stores.parallel import run_together

_UNKNOWN_SHA256, _UNKNOWN_COMMIT = "0" * 64, "0" * 40
_HEXADECIMAL = frozenset("0123456789abcdef")

_log = logging.getLogger(__name__)


class _Listed(NamedTuple):
    """A source as it is written in params.yaml."""

    kind: Kind
    number: int
    values: Values


class Pin(NamedTuple):
    """What fixes a source: the value of `key`, and the hashes of its files if they are many in a store."""

    key: str
    value: str
    files: dict[str, str] | None = None
    changes: str = ""
    "Which of many files differ from those before, if these are known."


def pin_sources(
    path: Path, kinds: Iterable[Kind], names: Iterable[str] = (), *, only_refused: bool = False
) -> list[str]:
    """Find what fixes the sources in a params.yaml, of these lists and names (all, if there are none); write what differs.

    With `only_refused`, sources that `gpt fetch` would bring as they are stay as they are, whatever their store holds by now.
    Returns a line for each that changed. Raises one `UserError` for all that cannot be reached, and then writes nothing.
    """
    text = path.read_text(encoding="utf-8")
    listed = {
        str(values.get("name")): _Listed(kind, number, values)
        for kind, each in read_sources(text).items()
        for number, values in enumerate(each)
    }
    names, kinds = tuple(names), tuple(kinds)
    if unknown := [name for name in names if name not in listed]:
        raise UserError(f"{path}: fetch has no source named {', '.join(unknown)}; it has {', '.join(listed) or 'none'}")
    pins, errors = dict[str, Pin](), list[str]()
    for name, entry in listed.items():
        if entry.kind in kinds and (not names or name in names):
            try:
                source = validated(entry.values, path, f"fetch.{entry.kind}.{entry.number}")
                with located(f"{path}: fetch.{entry.kind} {name}"):
                    if not (only_refused and is_as_said(source, entry.values)):
                        pins[name] = find_pin(source, entry.values)
            except UserError as error:
                errors.append(str(error))
    if errors:
        raise UserError("\n".join(errors))
    lines = list[str]()
    for name, pin in pins.items():
        if listed[name].values.get(pin.key) != pin.value:
            text = set_in_source(text, name, {pin.key: pin.value})
            lines.append(f"{path}: fetch.{listed[name].kind} {name}: {_say(name, listed[name].values, pin)}")
    for name, pin in pins.items():
        if pin.files is not None:
            write_manifest(name, pin.files)
    write_text(path, text)
    return lines


def find_pin(source: Source, values: Values) -> Pin:
    """Return what fixes a source as it is in its store now; `values` are those that were written, perhaps a branch for a commit.

    Raises `UserError` for a store that does not give the files.
    """
    match source:
        case LocalSource():
            path = place_of(source)
            if (files := find_files(path)) is None or not files.names:
                why = "holds no file" if files else "not found"
                raise UserError(f"path: {source.path} {why}; correct it, or bring the files back")
            hashes = content_hashes(path, files)
            if files.is_one:
                return Pin("sha256", hashes[path.name])
            remember(hashes)
            return Pin("sha256", manifest_hash(hashes), changes=_changes(recall(source.sha256), hashes))
        case PypiSource():
            try:
                cached_distribution(source)
            except OtherContent as error:
                return Pin("sha256", error.found)
            return Pin("sha256", source.sha256)
        case UrlSource() if source.is_many:
            listed, left_out = remote.list_files(source.url)
            if left_out:
                _log.warning("source %s: left out as hidden: %s", source.name, shown(left_out))
            hashes, _ = run_together({path: partial(_hash_in_store, file) for path, file in listed.items()})
            return Pin("sha256", manifest_hash(hashes), hashes, _changes(_listed_before(source), hashes))
        case UrlSource():
            stamp = remote.stamp_of(source.url)
            return Pin("sha256", find_hash(source.url, stamp, partial(remote.download, source.url)))
        case HuggingFaceSource():
            revision = str(values.get("revision", "main"))
            commit = revision if revision == source.revision else hub.find_commit(source.repository, revision)
            hub.choose(hub.list_files(source.repository, commit), source.patterns)
            return Pin("revision", commit)


def is_as_said(source: Source, values: Values) -> bool:
    """Tell whether a source is fixed by what was written, and what comes is that."""
    if values.get("sha256", values.get("revision")) != source.identity:
        return False
    try:
        match source:
            case LocalSource():
                return content_hash(place_of(source)) == source.sha256
            case PypiSource():
                cached_distribution(source)
            case UrlSource() if source.is_many:
                if not _listed_before(source):
                    return False
                cached_files(source)
            case UrlSource():
                cached_file(source)
            case HuggingFaceSource():
                pass  # a commit is what it is
    except OtherContent:
        return False
    return True


def _hash_in_store(file: remote.Stored) -> str:
    stamp = file.stamp or remote.stamp_of(file.address)  # a web page that lists files says nothing of them
    return find_hash(file.address, stamp, partial(remote.download, file.address))


def validated(values: Values, path: Path, place: str) -> Source:
    """Return the settings of a source, with a hash that nothing has in place of one that is missing or none.

    Raises `UserError` for other faults, which names `path` and keys below `place`.
    """
    filled = dict(values)
    if filled.get("kind") == "huggingface":
        filled["revision"] = _known(filled.get("revision"), _UNKNOWN_COMMIT)
    elif "kind" in filled:
        filled["sha256"] = _known(filled.get("sha256"), _UNKNOWN_SHA256)
    with explained(path, lambda key: f"{place}{key.removeprefix('0')}"):
        (source,) = TypeAdapter(tuple[Source]).validate_python((filled,))
    return source


def _known(value: object, unknown: str) -> str:
    if isinstance(value, str) and len(value) == len(unknown) and set(value) <= _HEXADECIMAL:
        return value
    return unknown


def _changes(before: dict[str, str], now: dict[str, str]) -> str:
    return describe_changes(before, now) if before else ""


def _listed_before(source: UrlSource) -> dict[str, str]:
    try:
        return read_manifest(source.name, source.sha256)
    except UserError:  # none yet, or another's
        return {}


def _say(name: str, values: Values, pin: Pin) -> str:
    before = values.get(pin.key)
    was = f" (was {before})" if before else ""
    listed = f", {len(pin.files)} files listed in {manifest_file(name)}" if pin.files is not None else ""
    return f"{pin.key} = {pin.value}{was}{listed}{pin.changes and f': {pin.changes}'}"
