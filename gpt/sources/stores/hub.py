"""Data sets on the Hugging Face hub, by the hub's own library: a commit's files, each with the hash that the hub says it has.

Files of the library's cache are taken from there, so that `hf download`, or another program here, has fetched them for us too. What
is not there is downloaded into our cache: the library begins a file anew after a kill, and files are gigabytes.
HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they mean to the library.
"""

import fnmatch
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from gpt.errors import UserError
from gpt.files import lenient_json, sha256_file, write_json
from gpt.paths import cache_folder
from gpt.sources.hidden import matches
from gpt.sources.refusals import OtherContent
from gpt.sources.stores.cache import cached

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_CHUNK_BYTES = 1 << 20
_LARGEST_BYTES = 50 * 10**9  # what the hub serves over plain HTTP
_SHOWN = 3
_TYPE = "dataset"


class HubFile(NamedTuple):
    """A file of a commit, as the hub describes it."""

    size: int
    blob: str
    "SHA-1 of git's object: of the file, or of the pointer that stands for it (LFS)."
    sha256: str | None
    "Of a file that git knows by a pointer only."

    def is_in(self, path: Path) -> bool:
        """Whether a file on the disk is this one."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return sha256_file(path) == self.sha256
        return self.blob in (_git_hash(path), _pointer_hash(path))

    @property
    def digest(self) -> str:
        """What the file is called in the cache of this machine."""
        return self.sha256 or f"git-{self.blob}"


def find_commit(repository: str, revision: str) -> str:
    """Return the commit, 40 hexadecimal digits, that a branch, a tag or an abbreviated commit of a data set stands for now."""
    with _told(repository, revision):
        commit = _api().dataset_info(repository, revision=revision).sha
    if commit is None:
        raise UserError(f"the hub says no commit of {repository} {revision}; try again, or write one yourself")
    return commit


def find_licence(repository: str, commit: str) -> str | None:
    """Return the licence that a data set's card names, None if it names none."""
    with _told(repository, commit):
        card = _api().dataset_info(repository, revision=commit).card_data
    licence = card.get("license") if card else None
    return ", ".join(licence) if isinstance(licence, list) else licence


def list_files(repository: str, commit: str) -> dict[str, HubFile]:
    """Return the files of a commit by their path: as this machine has noted, as the library's cache has, or as the hub says.

    A commit never changes, so that a listing is asked for once. Raises `UserError` if the hub has no such commit for us.
    """
    noted = cache_folder("hub") / f"{repository.replace('/', '--')}@{commit}.json"
    known = lenient_json(noted.read_bytes()) if noted.exists() else {}
    if known:
        return {path: HubFile(*entry) for path, entry in known.items()}
    files = _list_in_cache(repository, commit) or _list_at_hub(repository, commit)
    write_json(noted, files)
    return files


def choose(files: Iterable[str], patterns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the paths that a pattern matches, and those of hidden files among them, which no pattern names.

    Raises `UserError` for a pattern that matches nothing.
    """
    names = sorted(files)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise UserError(
                f"patterns: nothing in the data set matches {pattern!r}; it holds {len(names)} files, such as"
                f" {', '.join(names[:_SHOWN])}"
            )
    chosen = [name for name in names if any(matches(name, pattern) for pattern in patterns)]
    if outside := [name for name in chosen if ".." in PurePosixPath(name).parts or name.startswith("/")]:
        raise UserError(f"patterns: the data set's file {outside[0]!r} leaves its folder; let them match others")
    meant = (name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    return chosen, [name for name in meant if name not in set(chosen)]


def obtain(repository: str, commit: str, path: str, file: HubFile) -> Path:
    """Return a file of a commit on this machine, verified by the hub's hash; download what is not here."""
    from huggingface_hub import try_to_load_from_cache

    there = try_to_load_from_cache(repository, path, revision=commit, repo_type=_TYPE)
    if isinstance(there, str) and file.is_in(Path(there)):
        return Path(there)

    def hash_of(part: Path) -> str:
        return file.digest if file.is_in(part) else sha256_file(part)

    try:
        return cached(file.digest, lambda part: _download(repository, commit, path, file, part), hash_of)
    except OtherContent:
        raise UserError(
            f"what came for {path} is not the file that the hub lists for {commit}; fetch it again"
        ) from None


def _list_in_cache(repository: str, commit: str) -> dict[str, HubFile]:
    """Return the listing that `hf download` left; of a file behind a pointer it says the pointer's hash only."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        with _told(repository, commit):
            listed = get_cached_repo_tree(repository, repo_type=_TYPE, revision=commit)
    except CachedRepoTreeNotFoundError:
        return {}
    return {file.path: HubFile(file.size, file.blob_id, None) for file in listed}


def _list_at_hub(repository: str, commit: str) -> dict[str, HubFile]:
    from huggingface_hub import RepoFile

    with _told(repository, commit):
        tree = list(_api().list_repo_tree(repository, recursive=True, revision=commit, repo_type=_TYPE))
    return {
        entry.path: HubFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
        for entry in tree
        if isinstance(entry, RepoFile)
    }


def _download(repository: str, commit: str, path: str, file: HubFile, part: Path) -> None:
    """Add to `part` what it does not hold of a file. Where the hub sends us elsewhere for it, the token stays at home."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if file.size > _LARGEST_BYTES:
        raise UserError(
            f"{path} has {file.size:,} bytes, more than the hub serves over HTTP; `hf download {repository} {path}"
            f" --repo-type dataset --revision {commit}` brings it into the hub's cache, from where it is taken"
        )
    with _told(repository, commit, path), part.open("ab") as local:
        address = hf_hub_url(repository, path, repo_type=_TYPE, revision=commit, endpoint=_endpoint())
        place = get_hf_file_metadata(address, endpoint=_endpoint()).location
        headers = build_hf_headers(token=None if _is_hub(place, address) else False)
        if local.tell() > file.size:
            local.truncate(0)
        have, size = local.tell(), file.size
        http_get(
            place,
            local,
            resume_size=have,
            headers=headers,
            expected_size=size,
            tqdm_class=_NoBar,  # pyright: ignore[reportArgumentType]
        )


class _NoBar:
    """Stands where the library would draw a bar for each file: several are on their way."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        pass

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, count: float | None = 1) -> None:
        pass


def _is_hub(place: str, address: str) -> bool:
    """Whether a file's place is the hub itself, which may see a token, and no store that it keeps its files in."""
    from urllib.parse import urlsplit

    from huggingface_hub.constants import HF_URL_HOSTS

    there, asked = urlsplit(place), urlsplit(address)
    is_same = (there.scheme, there.netloc) == (asked.scheme, asked.netloc)
    return is_same or (there.scheme == "https" and there.hostname in HF_URL_HOSTS)


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint())


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _told(repository: str, revision: str, path: str = "") -> Iterator[None]:
    """Raise a `UserError` that says why the hub does not give what was asked for."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{_endpoint() or 'https://huggingface.co'}/datasets/{repository}"
    try:
        yield
    except HFValidationError as error:
        raise UserError(f"repository: the hub names no data set {repository} ({error}); correct the name") from None
    except GatedRepoError:
        raise UserError(
            f"{repository} is gated: accept its conditions at {page}, and give a token of that account as HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"repository: the hub has no data set {repository}, or shows it to others only; correct the name, or give a"
            " token that may read it as HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"revision: {repository} has no {revision}; {page}/commits/main shows its commits") from None
    except OfflineModeIsEnabled:
        raise UserError(
            f"{repository} at {revision} is not on this machine, and HF_HUB_OFFLINE forbids to ask the hub; unset it, or bring"
            f" it where the network is: `hf download {repository} --repo-type dataset --revision {revision}`"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"the hub refuses {repository} (HTTP status {status}); give a token that may read it as HF_TOKEN"
            ) from None
        raise UserError(
            f"the hub cannot give {path or repository} (HTTP status {status}); try again later (it resumes)"
        ) from None
    except UserError:
        raise
    except Exception as error:  # of the library's library for HTTP
        if not _is_network(error):
            raise
        raise UserError(
            f"cannot read {path or repository} from {page}: {type(error).__name__}: {error}; check the network, then run it"
            " again (it resumes)"
        ) from None


def _is_network(error: Exception) -> bool:
    """Whether an error is of the network, not of a program or a disk."""
    of_library = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")
    is_short = isinstance(error, OSError) and error.errno is None  # the library's, of a size that is not as announced
    return of_library or isinstance(error, ConnectionError) or is_short


def _git_hash(path: Path) -> str:
    """Return the SHA-1 that git knows a file's bytes by."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _pointer_hash(path: Path) -> str:
    """Return the SHA-1 of the pointer that stands for a file in git (LFS)."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256_file(path)}\nsize {path.stat().st_size}\n".encode()
    return hashlib.sha1(f"blob {len(pointer)}\0".encode() + pointer, usedforsecurity=False).hexdigest()
