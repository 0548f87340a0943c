"""Members of zip and tar archives, taken out without harm: no bomb, no link, nothing outside the target's folder."""

import errno
import fnmatch
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from gpt.errors import UserError

_CHUNK_BYTES = 1 << 20

# An archive that would inflate to more than the larger of these is taken for a bomb. The most repetitive benchmark known
# here (CoQA's requests, the story on every line) is 50 times its gzip; zeros are 1,000 times theirs, and more in xz.
_MAX_RATIO = 200
_ALWAYS_BYTES = 1 << 26

# What damaged archives raise, found by damaging some at random; a RuntimeError is for an encrypted member. And there are
# OSErrors: of gzip and bz2 without a number, of zipfile EINVAL for a place before the file's beginning.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


class _Member(NamedTuple):
    """A member of an archive that is no folder, with the size that the archive says it has."""

    name: str
    size: int
    regular: bool  # no link and no device
    open: Callable[[], IO[bytes] | None]


def extract(archive: Path, patterns: tuple[str, ...], target: Path) -> None:
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
