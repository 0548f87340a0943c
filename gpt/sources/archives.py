"""Members of zip and tar archives, taken out without harm: nothing outside the target's folder, nothing that fills the disk.

Who fetches an archive has said its hash, so it is no attack: what is refused is what would be a mistake.
"""

import errno
import fnmatch
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from gpt.errors import UserError
from gpt.sources.hidden import matches

_CHUNK_BYTES = 1 << 20
_MOST_LINKS = 40  # from one to the next, as Linux has it
_LONGEST_PATH = 4096  # bytes

# What damaged archives raise, found by damaging some at random; a RuntimeError is for an encrypted member. And there are
# OSErrors: of gzip and bz2 without a number, of zipfile EINVAL for a place before the file's beginning.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


class _Member(NamedTuple):
    """A member of an archive that is no folder."""

    name: str
    size: int
    "What it inflates to at the most."
    open: Callable[[], IO[bytes] | None] | None
    "None for what is no file: a link, a device."
    link: str = ""
    "Where a link leads, from the archive's root."


def extract(archive: Path, patterns: tuple[str, ...], target: Path) -> list[str]:
    """Take the members of a zip or tar archive that match a pattern, under the part of their path that differs.

    A link is taken for the file that it leads to. Returns the names of what matches and is left out: hidden files that no pattern
    names, links that lead to no file of the archive, and devices.
    """
    with _open_archive(archive) as members:
        chosen, left_out = _choose(members, patterns)
        places = {member.name: _place(member.name) for member, _ in chosen}
        common = len(PurePosixPath(os.path.commonpath([place.parent for place in places.values()])).parts)
        # Of two members of one name the later is meant: `tar --append` adds what has changed.
        files = {target.joinpath(*places[member.name].parts[common:]): file for member, file in chosen}
        needed, free = sum(file.size for file in files.values()), shutil.disk_usage(target).free
        if needed > free:
            raise UserError(
                f"the archive's members inflate to {needed:,} bytes, and the disk has {free:,} left;"
                " make room, or let members match fewer files"
            )
        for path, file in files.items():
            _extract_member(file, path)
    return left_out


def _choose(members: list[_Member], patterns: tuple[str, ...]) -> tuple[list[tuple[_Member, _Member]], list[str]]:
    """Return (member, the file that it is or leads to) of what the patterns mean, in the archive's order, and what is left out.

    Going back in a compressed tar means inflating it from the start.
    """
    by_place = {_normal(member.name): member for member in members}
    found = [
        (member, _follow(member, by_place))
        for member in members
        if any(matches(member.name, each) for each in patterns)
    ]
    chosen = [(member, file) for member, file in found if file is not None]
    taken = {member.name for member, _ in chosen}
    left_out = [
        name for name in (member.name for member in members) if name not in taken
        and any(fnmatch.fnmatchcase(name, each) for each in patterns)
    ]  # fmt: skip
    for pattern in patterns:
        if not any(matches(name, pattern) for name in taken):
            names = sorted(by_place)
            unfit = f", but for {left_out[0]!r}, which is hidden or no file" if left_out else ""
            raise UserError(
                f"members: nothing in the archive matches {pattern!r}{unfit};"
                f" it holds {len(names)} files, such as {', '.join(names[:3])}"
            )
    return chosen, left_out


def _follow(member: _Member, by_place: dict[str, _Member]) -> _Member | None:
    """Return the file that a member is or, through links, leads to; None if there is none in the archive."""
    for _ in range(_MOST_LINKS):
        if member.open is not None:
            return member
        if not member.link or (following := by_place.get(_normal(member.link))) is None:
            return None
        member = following
    return None


def _normal(name: str) -> str:
    """Return a member's name without the / that it may begin with, as tar takes it, and without ./ and //."""
    return posixpath.normpath(name.lstrip("/"))


def _place(name: str) -> PurePosixPath:
    path = PurePosixPath(_normal(name))
    if ".." in path.parts:
        raise UserError(f"the archive's member {name!r} leaves its folder; repack it, or let members match others")
    return path


def _extract_member(member: _Member, path: Path) -> None:
    assert member.open is not None, "what is no file was left out"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = path.open("xb")
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"the archive holds a file and a folder in the place of {member.name!r}; repack it") from None
    reader = member.open()
    assert reader is not None, "it is a file"
    with reader, writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)


@contextmanager
def _open_archive(path: Path) -> Iterator[list[_Member]]:
    """Yield an archive's members; raise `UserError` for damage, also while members are read."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield list(_zip_members(archive))
        else:
            with tarfile.open(path) as archive:
                members = list(_tar_members(archive))
                _read_to_end(archive)
                yield members
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the system's, such as a full disk
            raise
        raise UserError(
            f"not a readable zip or tar archive ({error}); fetch an undamaged one, or leave members empty for a plain file"
        ) from None


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        if stat.S_ISLNK(info.external_attr >> 16) and info.file_size < _LONGEST_PATH:  # its content is where it leads
            leads = archive.read(info).decode(errors="surrogateescape")
            yield _Member(info.filename, 0, None, posixpath.join(posixpath.dirname(info.filename), leads))
        elif not info.is_dir():
            yield _Member(info.filename, info.file_size, partial(archive.open, info))


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:  # header by header: what a member holds is inflated when the next one is asked for
        if info.isfile():
            yield _Member(info.name, info.size, partial(archive.extractfile, info))
        elif info.issym():
            yield _Member(info.name, 0, None, posixpath.join(posixpath.dirname(info.name), info.linkname))
        elif not info.isdir():
            yield _Member(info.name, 0, None, info.linkname if info.islnk() else "")


def _read_to_end(archive: tarfile.TarFile) -> None:
    """Read what follows a tar's last member: the CRC of its gzip is at the end, and tells of a damaged download."""
    assert archive.fileobj is not None
    while archive.fileobj.read(_CHUNK_BYTES):
        pass
