"""A server that answers as the Hugging Face hub does, for its own library: data sets in revisions, pages of listings, LFS, errors.

Large files are kept by another host, as on the hub: 127.0.0.1 is the hub, localhost its store, which must see no token.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from tests.sources.web import Handler, serving

Files = dict[str, bytes]


def git_hash(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def pointer_to(data: bytes) -> bytes:
    """What git keeps in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(data).hexdigest()}\nsize {len(data)}\n".encode()


@dataclass
class DataSet:
    """Commits by their id, names that stand for some, and who may read it."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    licence: str = "cc0-1.0"
    token: str = ""
    "Without which it is hidden."
    gated: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        """Add a commit at the end of a branch; return its id."""
        listing = "".join(f"{name} {git_hash(data)}\n" for name, data in sorted(files.items()))
        commit = hashlib.sha1(f"{self.refs.get(branch)}{listing}".encode()).hexdigest()
        self.commits[commit], self.refs[branch] = files, commit
        return commit


@dataclass
class Hub:
    """Data sets by OWNER/NAME; files of at least `large` bytes are LFS's. What was asked for is in `asked`."""

    url: str = ""
    store: str = ""
    sets: dict[str, DataSet] = field(default_factory=dict)
    large: int = 1000
    page: int = 2
    "Entries of a listing that come at once."
    asked: list[str] = field(default_factory=list)
    "`METHOD PATH[ RANGE]`."
    tokens_at_store: list[str] = field(default_factory=list)
    sent: int = 0
    "Bytes of files."
    stalls_at: int | None = None
    "How many bytes of an answer come before nothing does any more."
    stalled: threading.Event = field(default_factory=threading.Event)
    resumes: threading.Event = field(default_factory=threading.Event)
    spoils: bool = False
    "Whether large files come with a wrong byte."


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve a hub meanwhile: HF_ENDPOINT is its `url`."""
    state = Hub()

    class Answers(Handler):
        def do_GET(self) -> None:  # noqa: N802
            address = urlsplit(self.path)
            path = unquote(address.path)
            state.asked.append(" ".join(filter(None, (self.command, path, self.headers.get("Range")))))
            if self.headers["Host"].startswith("localhost"):
                self.give_large(path.removeprefix("/large/"))
            elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
                repository, what, revision = found.groups()
                if commit := self.commit_of(repository, revision or "main"):
                    self.describe(repository, commit) if what != "tree" else self.list(
                        repository, commit, address.query
                    )
            elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                repository, revision, name = found.groups()
                if commit := self.commit_of(repository, revision):
                    self.give(state.sets[repository].commits[commit].get(name), commit)
            else:
                self.send(404)

        do_HEAD = do_GET  # noqa: N815

        def commit_of(self, repository: str, revision: str) -> str | None:
            known = state.sets.get(repository)
            if known is None or (known.token and self.headers.get("Authorization") != f"Bearer {known.token}"):
                self.refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
            elif known.gated and "Authorization" not in self.headers:
                self.refuse(HTTPStatus.FORBIDDEN, "GatedRepo")
            elif (commit := known.refs.get(revision, revision)) not in known.commits:
                self.refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
            else:
                return commit
            return None

        def refuse(self, status: int, code: str) -> None:
            self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def describe(self, repository: str, commit: str) -> None:
            known = state.sets[repository]
            siblings = [{"rfilename": name} for name in known.commits[commit]]
            card = {"license": known.licence} if known.licence else {}
            self.send_json({"id": repository, "sha": commit, "cardData": card, "siblings": siblings, "tags": []})

        def list(self, repository: str, commit: str, query: str) -> None:
            first = int(parse_qs(query).get("cursor", ["0"])[0])
            entries: list[dict[str, object]] = [{"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}]
            for name, data in sorted(state.sets[repository].commits[commit].items()):
                entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
                if len(data) >= state.large:
                    pointer = pointer_to(data)
                    digest = hashlib.sha256(data).hexdigest()
                    lfs = {"oid": digest, "size": len(data), "pointerSize": len(pointer)}
                    entry |= {"oid": git_hash(pointer), "lfs": lfs}
                entries.append(entry)
            page, last = entries[first : first + state.page], first + state.page
            address = f"{state.url}/api/datasets/{repository}/tree/{commit}?recursive=True&cursor={last}"
            self.send_json(page, {"Link": f'<{address}>; rel="next"'} if last < len(entries) else {})

        def give(self, data: bytes | None, commit: str) -> None:
            if data is None:
                self.refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")
            elif len(data) < state.large:
                self.send(200, data, {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": commit})
            else:
                digest = hashlib.sha256(data).hexdigest()
                linked = {
                    "X-Linked-Etag": f'"{digest}"',
                    "X-Linked-Size": str(len(data)),
                    "ETag": f'"{git_hash(data)}"',
                }
                self.send(302, b"", {"Location": f"{state.store}/large/{digest}", "X-Repo-Commit": commit, **linked})

        def give_large(self, digest: str) -> None:
            if "Authorization" in self.headers:
                state.tokens_at_store.append(self.headers["Authorization"])
            files = (
                data for known in state.sets.values() for files in known.commits.values() for data in files.values()
            )
            data = next(data for data in files if hashlib.sha256(data).hexdigest() == digest)
            self.send(200, data[:-1] + b"?" if state.spoils else data, {"ETag": f'"{digest}"'})

        def send_json(self, value: object, headers: dict[str, str] | None = None) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

        def write(self, body: bytes) -> None:
            if self.path.startswith("/api/"):
                super().write(body)
                return
            stop = state.stalls_at
            super().write(body[:stop])
            state.sent += len(body[:stop])
            if stop is not None and stop < len(body):
                self.wfile.flush()
                state.stalled.set()
                state.resumes.wait(60)
                self.close_connection = True

    with serving(Answers) as port, pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE", raising=False)  # other tests set it, and the library reads it once
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        state.url, state.store = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        yield state
        state.resumes.set()


@contextmanager
def hub_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a hub with a data set that has no commit yet, to a user without a token whose cache is in `folder`."""
    monkeypatch.setenv("GPT_CACHE", str(folder / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub() as running:
        running.sets[name] = DataSet()
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
