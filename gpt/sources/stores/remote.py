"""Files behind an address that fsspec opens: one, or those of a folder or a pattern in an object store."""

import errno
import fnmatch
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import fsspec

from gpt.addresses import proxy_of
from gpt.errors import UserError
from gpt.secrets.hiding import public_uri
from gpt.sources.hidden import matches, split_pattern
from gpt.sources.stores.credentials import WHERE, login

_CHUNK_BYTES = 1 << 20
_SHOWN = 3
_FULL = (errno.ENOSPC, errno.EDQUOT)
_STAMPS = (
    "ETag",
    "etag",
    "md5",
    "content_md5",
    "Content-MD5",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)


class Stored(NamedTuple):
    """A file in a store."""

    address: str
    stamp: str | None
    "What the store says of this version of it (ETag, time, size); None if it says nothing that changes with it."


class Listing(NamedTuple):
    """What a store holds under a folder or a pattern."""

    files: dict[str, Stored]
    "By their path below the folder."
    left_out: list[str]
    "Paths of hidden files that the pattern matches."


def list_files(address: str) -> Listing:
    """Return the files under a folder (an address that ends in /) or a pattern; `*` crosses folders, as in `members`.

    Raises `UserError` for a store that cannot be read, and for what holds no file.
    """
    folder, pattern = split_pattern(address)
    with readable(folder):
        system, root = fsspec.core.url_to_fs(folder, **login(folder), **_proxy(folder))
        system.invalidate_cache()
        root = root.rstrip("/") + "/"
        found = {name: info for name, info in system.find(root, detail=True).items() if name.startswith(root)}
        names = {name: _path_of(name.removeprefix(root), folder) for name in found}
        files = {
            path: Stored(system.unstrip_protocol(name), _stamp(found[name]))
            for name, path in sorted(names.items(), key=lambda item: item[1])
            if path
        }
    chosen = {path: file for path, file in files.items() if matches(path, pattern)}
    if not chosen:
        held = f"{len(files)} files, such as {', '.join(list(files)[:_SHOWN])}" if files else "no file"
        raise UserError(f"nothing in {public_uri(folder)} matches {pattern!r}: it holds {held}; check the address")
    for path in chosen:
        if "\n" in path or ".." in PurePosixPath(path).parts:
            raise UserError(
                f"{public_uri(folder)} holds a file named {path!r}, which cannot be kept; leave it out by a pattern"
            )
    left_out = [path for path in files if fnmatch.fnmatchcase(path, pattern) and path not in chosen]
    return Listing(chosen, left_out)


def address_of(address: str, path: str) -> str:
    """Return the address of a file by its path below the folder of `address`, as `list_files` gives it."""
    folder, _ = split_pattern(address)
    return folder + (quote(path) if _is_web(folder) else path)


def stamp_of(address: str) -> str | None:
    """Return what the store says of this version of a file (`Stored.stamp`)."""
    with readable(address):
        system, path = fsspec.core.url_to_fs(address, **login(address), **_proxy(address))
        system.invalidate_cache()
        return _stamp(system.info(path))


def download(address: str, part: Path) -> None:
    """Download to `part`, going on after the bytes that are there where the server can seek."""
    with readable(address):
        try:
            _append(address, part)
        except (ValueError, NotImplementedError):  # it cannot: one stream from the beginning
            part.unlink(missing_ok=True)
            _append(address, part, **({"block_size": 0} if _is_web(address) else {}))


@contextmanager
def readable(address: str) -> Iterator[None]:
    """Raise a `UserError` that says why an address cannot be read."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{error}; install it (S3: pip install '.[s3]')") from None
    except Exception as error:  # each filesystem raises its own
        if isinstance(error, OSError) and error.errno in _FULL:  # of this machine's disk
            raise
        shown, name = public_uri(address), type(error).__name__
        status = getattr(error.__cause__, "status", None)  # fsspec says that there is no such file
        if status in (401, 403):
            raise UserError(f"cannot read {shown}: the server refuses it (HTTP status {status}); {WHERE}") from None
        if isinstance(error, PermissionError) or "Credential" in name:
            raise UserError(f"cannot read {shown}: {name}: {error}; {WHERE}") from None
        proxy = proxy_of(address)
        way = f" through the proxy {proxy.described}" if proxy else ""
        raise UserError(
            f"cannot read {shown}{way}: {name}: {error}; check the address and the network, then run it again (it resumes)"
        ) from None


def _path_of(below: str, folder: str) -> str:
    """Return a file's path; "" for what is none: pages that list a folder link to themselves in another order, after a "?"."""
    if not _is_web(folder):
        return below
    return "" if "?" in below else unquote(below)


def _is_web(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _stamp(info: dict[str, Any]) -> str | None:
    stamps = [f"{key}={info[key]}" for key in _STAMPS if info.get(key)]
    return f"size={info.get('size')} {' '.join(stamps)}" if stamps else None


def _append(address: str, part: Path, **options: Any) -> None:
    """Add to `part` what it does not hold of the file at `address`."""
    with fsspec.open(address, "rb", **login(address), **_proxy(address), **options) as remote, part.open("ab") as local:
        if have := local.tell():
            remote.seek(have)  # pyright: ignore[reportAttributeAccessIssue]
        shutil.copyfileobj(remote, local, _CHUNK_BYTES)  # pyright: ignore[reportArgumentType]


def _proxy(address: str) -> dict[str, str]:
    """Return, as options of fsspec, the proxy that the environment names for a web address: by itself it asks directly."""
    proxy = proxy_of(address)
    return {"proxy": proxy.url} if proxy else {}
