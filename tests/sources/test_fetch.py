import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gpt import paths
from gpt.commands.main import main
from gpt.errors import UserError
from gpt.files import sha256_tree
from gpt.params.sources import LocalSource, PypiSource, Source, UrlSource
from gpt.sources.fetch import fetch
from gpt.sources.local import content_hash
from gpt.sources.pinning import Pin, find_pin
from gpt.sources.stores.cache import find_hash

TEXT = b"It was the best of times, it was the worst of times.\n" * 400
LONG = bytes(range(256)) * 25_000  # 6.4 MB: more than fsspec asks for at once


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Server:
    """Files behind HTTP on the loopback interface, and what was asked of it."""

    url: str = ""
    ranges: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    breaks_at: int | None = None  # the position in a file at which the connection breaks
    sent: int = 0
    login: str = ""  # user:password without which it answers 401
    hosts_with_login: set[str] = field(default_factory=set)
    redirect: str = ""  # where it sends whoever asks for `moved`
    stop: Callable[[], None] = lambda: None

    def source(self, name: str, *, sha256: str, members: tuple[str, ...] = ()) -> UrlSource:
        return UrlSource(kind="url", name="web", url=self.url + name, sha256=sha256, members=members, licence="CC0")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            if "Authorization" in self.headers:
                state.hosts_with_login.add(self.headers["Host"].split(":")[0])
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                return
            expected = f"Basic {base64.b64encode(state.login.encode()).decode()}" if state.login else None
            if self.headers.get("Authorization") != expected:
                self.send_error(401)
                return
            data = state.files.get(self.path.lstrip("/"))
            if data is None:
                self.send_error(404)
                return
            first = 0
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and state.ranges:
                first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                data = data[first : last + 1]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if with_body:
                data = data if state.breaks_at is None else data[: max(0, state.breaks_at - first)]
                state.sent += len(data)
                self.wfile.write(data)
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that has read enough hangs up

    web = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def stop() -> None:
        web.shutdown()
        web.server_close()
        thread.join()

    state.url, state.stop = f"http://127.0.0.1:{web.server_port}/", stop
    yield state
    stop()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test, in place of this machine's."""
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fetch"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A data/raw that an earlier fetch left."""
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True)
    (folder / "earlier.txt").write_text("earlier")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "sources.json"
    }


def fails(source: Source, raw: Path) -> str:
    """Return the message of a fetch that fails; what was there before is untouched and nothing is left beside it."""
    before = sha256_tree(raw)
    with pytest.raises(UserError, match=rf"^params\.yaml: fetch\.sources {source.name}: ") as caught:
        fetch((source,), raw)
    assert sha256_tree(raw) == before
    assert list(raw.parent.iterdir()) == [raw]
    return str(caught.value)


def make_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def make_tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# Local


def local(path: Path, sha256: str) -> LocalSource:
    return LocalSource(kind="local", name="disk", path=str(path), sha256=sha256, licence="none")


def test_a_local_file_comes_with_a_list_of_what_came(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    assert fetch((local(tmp_path / "a.txt", sha256(TEXT)),), raw) == 1
    assert contents(raw) == {"disk/a.txt": TEXT}
    assert json.loads((raw / "sources.json").read_text()) == [
        {
            "name": "disk",
            "files": {"a.txt": {"bytes": len(TEXT), "sha256": sha256(TEXT)}},
        }
    ]


def test_another_licence_or_archive_of_the_same_files_is_the_same_data(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    source = local(tmp_path / "a.txt", sha256(TEXT))
    fetch((source,), raw)
    before = sha256_tree(raw)
    fetch((source.model_copy(update={"licence": "another"}),), raw)
    assert sha256_tree(raw) == before
    for comment in (b"", b"packed again"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.txt", TEXT)
            archive.comment = comment
        values = {"url": f"file://{tmp_path}/a.zip", "sha256": sha256((tmp_path / "a.zip").read_bytes())}
        fetch((UrlSource(kind="url", name="disk", members=("a.txt",), licence="none", **values),), raw)
        assert sha256_tree(raw) == before


def test_sources_and_benchmarks_are_fetched_together_or_one_of_them(
    prepared_project: Path, copy_project: Callable[..., Path]
) -> None:
    copy_project(prepared_project)
    folders = {"sources": paths.RAW, "benchmarks": paths.BENCHMARKS}
    for what in ("sources", "benchmarks", None):
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
        assert main(["fetch", *([what] if what else [])]) == 0
        assert {name for name, folder in folders.items() if folder.exists()} == ({what} if what else {*folders})


def test_a_local_folder_comes_with_all_files_below_it(tmp_path: Path, raw: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a")
    (folder / "deep" / "b.txt").write_bytes(b"b")
    assert fetch((local(folder, sha256_tree(folder)),), raw) == 2
    assert contents(raw) == {"disk/a.txt": b"a", "disk/deep/b.txt": b"b"}


HIDDEN = [
    ".DS_Store", "deep/.DS_Store", "deep/._b.txt", ".git/config", ".ipynb_checkpoints/a-checkpoint.txt",
    "__MACOSX/deep/._b.txt", "Thumbs.db", "deep/thumbs.db", "desktop.ini", ".a.txt.swp", ".cache/a/b/c.txt",
]  # fmt: skip


def test_hidden_files_of_a_folder_are_left_out_and_said_and_change_no_hash(
    tmp_path: Path, raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / ".texts"  # who names a hidden folder means it
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a")
    (folder / "deep" / "b.txt").write_bytes(b"b")
    digest = sha256_tree(folder)
    assert fetch((local(folder, digest),), raw) == 2
    assert "left out" not in caplog.text
    for name in HIDDEN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0hidden")
    assert fetch((local(folder, digest),), raw) == 2
    assert contents(raw) == {"disk/a.txt": b"a", "disk/deep/b.txt": b"b"}
    assert content_hash(folder) == digest, "what `gpt inputs` says of the folder, for DVC"
    assert "source disk: left out as hidden or no files: 11 (.DS_Store, .a.txt.swp, .cache, …)" in caplog.text


def test_a_folder_of_hidden_files_alone_is_refused(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "texts" / ".git").mkdir(parents=True)
    (tmp_path / "texts" / ".git" / "a.txt").write_bytes(b"a")
    assert "holds no file" in fails(local(tmp_path / "texts", sha256(b"")), raw)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_hidden_members_come_only_if_a_pattern_names_them(
    server: Server, raw: Path, make: Callable[[dict[str, bytes]], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    names = ("texts/a.txt", "texts/._a.txt", "__MACOSX/texts/._a.txt", "texts/.github/b.txt")
    server.files["a.bin"] = make({name: name.encode() for name in names})
    source = server.source("a.bin", sha256=sha256(server.files["a.bin"]), members=("*.txt",))
    fetch((source,), raw)
    assert contents(raw) == {"web/a.txt": b"texts/a.txt"}
    assert (
        "left out as hidden or no files: 3 (__MACOSX/texts/._a.txt, texts/._a.txt, texts/.github/b.txt)" in caplog.text
    )
    fetch((source.model_copy(update={"members": ("*/a.txt", "*/.github/*")}),), raw)
    assert contents(raw) == {"web/a.txt": b"texts/a.txt", "web/.github/b.txt": b"texts/.github/b.txt"}


def test_a_changed_local_file_gives_both_hashes(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    message = fails(local(tmp_path / "a.txt", "0" * 64), raw)
    assert sha256(TEXT) in message
    assert "0" * 64 in message


def test_a_missing_local_file_is_named(tmp_path: Path, raw: Path) -> None:
    assert str(tmp_path / "none") in fails(local(tmp_path / "none", "0" * 64), raw)


def test_an_empty_local_folder_is_refused(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no file" in fails(local(tmp_path / "empty", sha256(b"")), raw)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.txt", ["a.txt", "deep/b.txt", "link/c.txt"]),
        ("deep/*", ["b.txt"]),
        ("*/c.*", ["link/c.txt"]),
        ("", None),
        ("*", None),
    ],
)
def test_a_pattern_of_the_disk_crosses_folders_and_links(
    tmp_path: Path, raw: Path, pattern: str, names: list[str] | None
) -> None:
    for name in ("texts/a.txt", "texts/deep/b.txt", "texts/.git/d.txt", "texts/e.md", "elsewhere/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "texts" / "link").symlink_to(tmp_path / "elsewhere")
    path = tmp_path / "texts" / pattern
    digest = content_hash(path)
    assert digest is not None
    fetch((local(path, digest),), raw)
    assert sorted(contents(raw)) == [f"disk/{name}" for name in names or ["a.txt", "deep/b.txt", "e.md", "link/c.txt"]]
    assert sha256_tree(raw / "disk") == digest


def test_a_broken_link_in_a_local_folder_is_named(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "gone").symlink_to(tmp_path / "nowhere")
    assert str(tmp_path / "texts" / "gone") in fails(local(tmp_path / "texts", "0" * 64), raw)


def test_a_local_folder_that_holds_the_output_is_refused(tmp_path: Path, raw: Path) -> None:
    assert "holds the folder that it is copied to" in fails(local(raw.parent, "0" * 64), raw)


def test_one_bad_source_keeps_the_good_ones_out_too(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    good = local(tmp_path / "a.txt", sha256(TEXT))
    with pytest.raises(UserError, match=r"fetch\.sources bad"):
        fetch((good, LocalSource(kind="local", name="bad", path="none", sha256="0" * 64, licence="-")), raw)
    assert contents(raw) == {"earlier.txt": b"earlier"}


# URLs


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("data", [TEXT, LONG, b""], ids=["short", "long", "empty"])
def test_a_url_is_fetched_whole(server: Server, raw: Path, data: bytes, ranges: bool) -> None:
    server.files["a.txt"], server.ranges = data, ranges
    assert fetch((server.source("a.txt", sha256=sha256(data)),), raw) == 1
    assert contents(raw) == {"web/a.txt": data}


@pytest.mark.parametrize("have", [1, 1000, len(LONG) - 1, len(LONG)])
def test_a_broken_download_is_resumed(server: Server, raw: Path, cache: Path, have: int) -> None:
    server.files["a.txt"] = LONG
    cache.mkdir(parents=True)
    (cache / f"{sha256(LONG)}.part").write_bytes(LONG[:have])
    fetch((server.source("a.txt", sha256=sha256(LONG)),), raw)
    assert contents(raw) == {"web/a.txt": LONG}
    assert server.sent == len(LONG) - have
    assert [path.name for path in cache.iterdir()] == [sha256(LONG)]


def test_what_arrived_before_the_connection_broke_is_not_fetched_again(server: Server, raw: Path, cache: Path) -> None:
    server.files["a.txt"], server.breaks_at = LONG, len(LONG) - 1000
    source = server.source("a.txt", sha256=sha256(LONG))
    assert "it resumes" in fails(source, raw)
    (part,) = cache.iterdir()
    have = part.stat().st_size
    assert have > 0
    server.breaks_at, server.sent = None, 0
    fetch((source,), raw)
    assert contents(raw) == {"web/a.txt": LONG}
    assert server.sent == len(LONG) - have


@pytest.mark.parametrize("have", [1000, len(LONG) - 1])
def test_a_broken_download_starts_over_where_the_server_cannot_seek(
    server: Server, raw: Path, cache: Path, have: int
) -> None:
    server.files["a.txt"], server.ranges = LONG, False
    cache.mkdir(parents=True)
    (cache / f"{sha256(LONG)}.part").write_bytes(LONG[:have])
    fetch((server.source("a.txt", sha256=sha256(LONG)),), raw)
    assert contents(raw) == {"web/a.txt": LONG}


@pytest.mark.parametrize(
    "left", [b"\0" * 1000, b"\0" * len(LONG), b"\0" * (len(LONG) + 9)], ids=["short", "whole", "long"]
)
def test_what_a_power_cut_left_of_a_download_is_brought_once_more_and_then_is_an_error(
    server: Server, raw: Path, cache: Path, caplog: pytest.LogCaptureFixture, left: bytes
) -> None:
    server.files["a.txt"] = LONG
    cache.mkdir(parents=True)
    part = cache / f"{sha256(LONG)}.part"
    part.write_bytes(left)
    fetch((server.source("a.txt", sha256=sha256(LONG)),), raw)
    assert contents(raw) == {"web/a.txt": LONG}
    assert "damaged; downloaded again from the beginning" in caplog.text
    (cache / f"{'0' * 64}.part").write_bytes(left)
    assert f"but what came has {sha256(LONG)}" in fails(server.source("a.txt", sha256="0" * 64), raw)


def test_of_a_file_without_a_hash_nothing_from_before_a_restart_is_gone_on_with(tmp_path: Path, cache: Path) -> None:
    def download(part: Path) -> None:
        with part.open("ab") as file:
            file.write(TEXT[file.tell() :])

    def breaks(part: Path) -> None:
        part.write_bytes(b"\0" * 100)
        raise UserError("broke off")

    for restarted in (True, False):
        with pytest.raises(UserError, match="broke off"):
            find_hash("https://example.org/a.txt", str(restarted), breaks)
        (part,) = cache.glob("new-*.part")
        if restarted:
            os.utime(part, (1, 1))
        found = find_hash("https://example.org/a.txt", str(restarted), download)
        assert (found == sha256(TEXT)) == restarted


def test_a_wrong_hash_gives_both_and_who_accepts_it_need_not_fetch_again(
    server: Server, raw: Path, cache: Path
) -> None:
    server.files["a.txt"] = TEXT
    message = fails(server.source("a.txt", sha256="0" * 64), raw)
    assert sha256(TEXT) in message
    assert "0" * 64 in message
    assert "\n" not in message
    assert message.endswith("; if that is what you want, `gpt data hash web` writes it into params.yaml")
    assert [path.name for path in cache.iterdir()] == [sha256(TEXT)]
    server.stop()
    assert fetch((server.source("a.txt", sha256=sha256(TEXT)),), raw) == 1


def test_a_server_that_is_gone_is_a_clear_error_and_the_next_fetch_works(server: Server, raw: Path) -> None:
    source = server.source("a.txt", sha256=sha256(TEXT))
    assert source.url in fails(source, raw)  # 404
    server.files["a.txt"] = TEXT
    assert fetch((source,), raw) == 1


def test_an_unreachable_server_is_a_clear_error(server: Server, raw: Path, cache: Path) -> None:
    server.stop()
    source = server.source("a.txt", sha256=sha256(TEXT))
    assert f"cannot read {source.url}" in fails(source, raw)
    assert [path.name for path in cache.iterdir() if path.suffix != ".part"] == []


def test_a_url_is_fetched_through_the_proxy_of_the_environment_and_an_error_names_it(
    server: Server, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://texts.example/a.txt"  # whole, as a proxy is asked for it
    server.files[address] = TEXT
    monkeypatch.setenv("http_proxy", server.url)
    source = UrlSource(kind="url", name="web", url=address, sha256=sha256(TEXT), members=(), licence="CC0")
    assert fetch((source,), raw) == 1
    gone = UrlSource(kind="url", name="web", url=address + "2", sha256="0" * 64, members=(), licence="CC0")
    assert f"cannot read {gone.url} through the proxy http_proxy={server.url}: " in fails(gone, raw)


def test_an_unknown_protocol_is_a_clear_error(raw: Path) -> None:
    source = UrlSource(kind="url", name="odd", url="gopher9://x/y", sha256="0" * 64, members=(), licence="-")
    assert "gopher9" in fails(source, raw)


def test_what_was_fetched_once_needs_no_server(server: Server, raw: Path) -> None:
    server.files["a.zip"] = make_zip({"x/a.txt": b"a", "x/b.txt": b"b"})
    digest = sha256(server.files["a.zip"])
    fetch((server.source("a.zip", sha256=digest, members=("*/a.txt",)),), raw)
    server.stop()
    fetch((server.source("a.zip", sha256=digest, members=("*.txt",)),), raw)  # even with another pattern
    assert contents(raw) == {"web/a.txt": b"a", "web/b.txt": b"b"}


def test_a_damaged_cache_is_fetched_again(server: Server, raw: Path, cache: Path) -> None:
    server.files["a.txt"] = TEXT
    source = server.source("a.txt", sha256=sha256(TEXT))
    fetch((source,), raw)
    (cache / source.sha256).write_bytes(TEXT[:-1] + b"?")
    fetch((source,), raw)
    assert contents(raw) == {"web/a.txt": TEXT}


# Archives


MEMBERS = {"pkg-1/texts/a.txt": b"a", "pkg-1/texts/more/b.txt": b"b", "pkg-1/setup.py": b"boom"}


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_the_members_that_match_come_without_their_common_folders(
    server: Server, raw: Path, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    server.files["a.bin"] = make(MEMBERS)
    fetch((server.source("a.bin", sha256=sha256(server.files["a.bin"]), members=("*/texts/*.txt",)),), raw)
    assert contents(raw) == {"web/a.txt": b"a", "web/more/b.txt": b"b"}


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_pattern_that_matches_nothing_is_named(
    server: Server, raw: Path, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    server.files["a.bin"] = make(MEMBERS)
    source = server.source("a.bin", sha256=sha256(server.files["a.bin"]), members=("*/texts/*.txt", "*.md"))
    assert "'*.md'" in fails(source, raw)


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    "names",
    [("../../evil.txt", "a.txt"), ("a/../../evil.txt", "a/b.txt"), ("/../evil.txt", "a.txt"), ("../evil.txt",)],
)
def test_an_archive_cannot_write_outside_its_folder(
    server: Server, tmp_path: Path, raw: Path, make: Callable[[dict[str, bytes]], bytes], names: tuple[str, ...]
) -> None:
    server.files["a.bin"] = make(dict.fromkeys(names, b"evil"))
    source = server.source("a.bin", sha256=sha256(server.files["a.bin"]), members=("*.txt",))
    assert "leaves its folder" in fails(source, raw)
    assert list(tmp_path.rglob("*evil*")) == []


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_the_slash_that_a_member_begins_with_is_left_out_as_tar_does(
    server: Server, raw: Path, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    server.files["a.bin"] = make({"/srv/texts/a.txt": b"a", "/srv/texts/deep/../b.txt": b"b"})
    fetch((server.source("a.bin", sha256=sha256(server.files["a.bin"]), members=("*.txt",)),), raw)
    assert contents(raw) == {"web/a.txt": b"a", "web/b.txt": b"b"}
    assert not Path("/srv/texts/a.txt").exists()


def test_links_beside_the_members_that_are_taken_are_not_followed(server: Server, tmp_path: Path, raw: Path) -> None:
    server.files["a.tar"] = make_tar(
        {"in/a.txt": b"a", "out/b.txt": b"b"}, links={"out": str(tmp_path), "passwd": "/etc/passwd"}
    )
    fetch((server.source("a.tar", sha256=sha256(server.files["a.tar"]), members=("*.txt",)),), raw)
    assert contents(raw) == {"web/in/a.txt": b"a", "web/out/b.txt": b"b"}
    assert not (tmp_path / "b.txt").exists()


def archive_fails(server: Server, raw: Path, archive: bytes) -> str:
    server.files["a.bin"] = archive
    return fails(server.source("a.bin", sha256=sha256(archive), members=("*.txt",)), raw)


def make_odd_tar(*odd: tuple[str, bytes, str]) -> bytes:
    """A tar with a file texts/a.txt and members of other kinds: (name, kind, where it points to)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("texts/a.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"a"))
        for name, kind, target in odd:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return buffer.getvalue()


def make_link_zip(links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("texts/a.txt", b"a")
        for name, target in links.items():
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
    return buffer.getvalue()


LINKS = {
    "symlink": make_odd_tar(("texts/b.txt", tarfile.SYMTYPE, "a.txt")),
    "symlink through another": make_odd_tar(
        ("texts/b.txt", tarfile.SYMTYPE, "../other/c"), ("other/c", tarfile.SYMTYPE, "../texts/a.txt")
    ),
    "hardlink": make_odd_tar(("texts/b.txt", tarfile.LNKTYPE, "texts/a.txt")),
    "zip": make_link_zip({"texts/b.txt": "a.txt"}),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_is_taken_for_the_file_that_it_leads_to(server: Server, raw: Path, case: str) -> None:
    server.files["a.bin"] = LINKS[case]
    fetch((server.source("a.bin", sha256=sha256(LINKS[case]), members=("*.txt",)),), raw)
    assert contents(raw) == {"web/a.txt": b"a", "web/b.txt": b"a"}
    assert not any(path.is_symlink() for path in raw.rglob("*"))


NO_FILES = {
    "link out of the archive": make_odd_tar(("texts/b.txt", tarfile.SYMTYPE, "/etc/passwd")),
    "link up out of the archive": make_odd_tar(("texts/b.txt", tarfile.SYMTYPE, "../../../../etc/passwd")),
    "link to itself": make_odd_tar(("texts/b.txt", tarfile.SYMTYPE, "b.txt")),
    "links in a circle": make_odd_tar(
        ("texts/b.txt", tarfile.SYMTYPE, "c"), ("texts/c", tarfile.SYMTYPE, "b.txt")
    ),
    "link to a folder": make_odd_tar(("texts/b.txt", tarfile.SYMTYPE, ".")),
    "pipe": make_odd_tar(("texts/b.txt", tarfile.FIFOTYPE, "")),
    "device": make_odd_tar(("texts/b.txt", tarfile.CHRTYPE, "")),
    "zip": make_link_zip({"texts/b.txt": "/etc/passwd"}),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_file_of_the_archive_is_left_out_and_said(
    server: Server, raw: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["a.bin"] = NO_FILES[case]
    source = server.source("a.bin", sha256=sha256(NO_FILES[case]), members=("*.txt",))
    fetch((source,), raw)
    assert contents(raw) == {"web/a.txt": b"a"}
    assert "left out as hidden or no files: 1 (texts/b.txt)" in caplog.text
    assert "'texts/b.txt', which is hidden or no file" in fails(
        source.model_copy(update={"members": ("*/b.txt",)}), raw
    )


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_what_is_no_archive_is_a_clear_error(server: Server, raw: Path, cut: int) -> None:
    whole = make_tar({"a.txt": bytes(range(256)) * 100})
    archive = (TEXT, whole[: len(whole) // 2], make_zip(MEMBERS)[:-30])[cut]
    assert "not a readable zip or tar archive" in archive_fails(server, raw, archive)


def change(data: bytes, position: int, new: bytes) -> bytes:
    position %= len(data)
    return data[:position] + new + data[position + len(new) :]


def damaged() -> dict[str, bytes]:
    """Archives that say other things than they hold."""
    tar, zipped = make_tar({"a.txt": TEXT}), make_zip({"a.txt": TEXT})
    # Of a.txt in the zip's own directory, after its b"PK\\1\\2": flags at 8, CRC at 16, size at 24.
    entry = zipped.index(b"PK\x01\x02")
    return {
        "tar.gz without its end": tar[:-1],
        "tar.gz without its last block": tar[:-20],
        "tar.gz of another CRC": change(tar, -8, bytes([tar[-8] ^ 1])),
        "tar.gz of another length": change(tar, -1, b"\x7f"),
        "zip without its end": zipped[:-1],
        "zip of another CRC": change(zipped, entry + 16, b"abcd"),
        "zip with a changed byte": change(zipped, 60, bytes([zipped[60] ^ 255])),
        "zip member of less": change(zipped, entry + 24, (1000).to_bytes(4, "little")),
        "zip member with a password": change(zipped, entry + 8, b"\x01"),
    }


@pytest.mark.parametrize("case", damaged())
def test_a_damaged_archive_is_a_clear_error(server: Server, raw: Path, case: str) -> None:
    assert "archive" in archive_fails(server, raw, damaged()[case])


def make_repeated(kind: str, names: tuple[str, ...]) -> bytes:
    """An archive of members whose content is their number."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") if kind == "zip" else tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, name in enumerate(names):
            data = str(number).encode()
            if isinstance(archive, zipfile.ZipFile):
                archive.writestr(name, data)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("names", [("a.txt", "a.txt"), ("a.txt", "./a.txt"), ("b/a.txt", "b//a.txt")])
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_one_name_the_later_is_meant(
    server: Server, raw: Path, kind: str, names: tuple[str, ...]
) -> None:
    """`tar --append` and `zip` add what has changed."""
    server.files["a.bin"] = make_repeated(kind, names)
    fetch((server.source("a.bin", sha256=sha256(server.files["a.bin"]), members=("*.txt",)),), raw)
    assert contents(raw) == {"web/a.txt": b"1"}


@pytest.mark.parametrize("names", [("a.txt", "a.txt/b.txt"), ("a.txt/b.txt", "a.txt")])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_file_and_a_folder_in_one_place_are_refused(
    server: Server, raw: Path, kind: str, names: tuple[str, ...]
) -> None:
    assert "a file and a folder in the place of" in archive_fails(server, raw, make_repeated(kind, names))


def make_huge(kind: str) -> bytes:
    """An archive that says of its member that it is an exabyte long."""
    if kind == "tar":
        info = tarfile.TarInfo("a.txt")
        info.size = 1 << 60
        return gzip.compress(info.tobuf() + TEXT)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", TEXT)
        archive.filelist[0].file_size = 1 << 60
    return buffer.getvalue()


def test_what_would_fill_the_disk_is_refused_before_it_does(server: Server, raw: Path) -> None:
    message = archive_fails(server, raw, make_huge("zip"))
    assert f"inflate to {1 << 60:,} bytes, and the disk has" in message
    assert "not a readable" in archive_fails(server, raw, make_huge("tar")), "it ends before what it says"


HONEST = {
    "a tar of much that repeats itself": lambda: make_tar({"a.txt": b"0123456789" * (8 << 20)}),
    "a zip of much that repeats itself": lambda: make_zip({"a.txt": b"0123456789" * (8 << 20)}),
    "a tar with much behind its end": lambda: gzip.compress(
        gzip.decompress(make_tar({"a.txt": TEXT})) + b"\0" * (80 << 20), 1
    ),
}


@pytest.mark.parametrize("case", HONEST)
def test_an_archive_is_taken_however_much_it_inflates_if_there_is_room(server: Server, raw: Path, case: str) -> None:
    server.files["a.bin"] = HONEST[case]()
    assert fetch((server.source("a.bin", sha256=sha256(server.files["a.bin"]), members=("*.txt",)),), raw) == 1
    assert (raw / "web" / "a.txt").read_bytes()[:10] in (b"0123456789", TEXT[:10])


# PyPI: pip itself, with a folder in place of the index


BACKEND = b"""
import os
os.environ.get("SETUP_RAN") and open(os.environ["SETUP_RAN"], "w").close()
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.makedirs(os.path.join(folder, "tiny_texts-1.0.dist-info"))
    with open(os.path.join(folder, "tiny_texts-1.0.dist-info", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: tiny-texts\\nVersion: 1.0\\n")
    return "tiny_texts-1.0.dist-info"
def build_wheel(*arguments, **more): raise SystemExit("nothing is installed")
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A folder that pip takes distributions from, and the hash of each."""
    folder = tmp_path / "index"
    folder.mkdir()
    metadata = b"Metadata-Version: 2.1\nName: tiny-texts\nVersion: 1.0\n"
    wheel = {
        "texts/a.txt": TEXT,
        "tiny_texts-1.0.dist-info/METADATA": metadata,
        "tiny_texts-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_texts-1.0.dist-info/RECORD": b"",
    }
    build = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    sdist = {
        "tiny_texts-1.0/pyproject.toml": build,
        "tiny_texts-1.0/backend.py": BACKEND,
        "tiny_texts-1.0/PKG-INFO": metadata,
        "tiny_texts-1.0/texts/a.txt": TEXT,
    }
    files = {"tiny_texts-1.0-py3-none-any.whl": make_zip(wheel), "tiny_texts-1.0.tar.gz": make_tar(sdist)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    wheel_hash, sdist_hash = map(sha256, files.values())
    return {"wheel": wheel_hash, "sdist": sdist_hash}


def pypi(distribution: str, sha256: str, package: str = "tiny-texts==1.0") -> PypiSource:
    values = {"name": "tiny", "package": package, "distribution": distribution, "sha256": sha256, "licence": "CC0"}
    return PypiSource.model_validate(values | {"kind": "pypi", "members": ["*texts/*.txt"]})


@pytest.mark.parametrize("distribution", ["wheel", "sdist"])
def test_a_distribution_is_brought_by_pip(index: dict[str, str], raw: Path, distribution: str) -> None:
    assert fetch((pypi(distribution, index[distribution]),), raw) == 1
    assert contents(raw) == {"tiny/a.txt": TEXT}


def test_a_distribution_of_another_hash_gives_both_and_runs_nothing(
    index: dict[str, str], tmp_path: Path, raw: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETUP_RAN", str(tmp_path / "setup-ran"))
    message = fails(pypi("sdist", "0" * 64), raw)
    assert index["sdist"] in message
    assert "0" * 64 in message
    assert find_pin(pypi("sdist", "0" * 64), {}) == Pin("sha256", index["sdist"]), "what `gpt data hash` writes"
    assert not (tmp_path / "setup-ran").exists()
    assert list(cache.iterdir()) == []


def test_a_distribution_that_the_index_lacks_is_named(index: dict[str, str], raw: Path, cache: Path) -> None:
    assert "tiny-texts==2.0" in fails(pypi("wheel", "0" * 64, "tiny-texts==2.0"), raw)
    assert list(cache.iterdir()) == []


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's netrc, with a login for the loopback interface."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password pa55word-of-netrc\n")
    monkeypatch.setenv("NETRC", str(file))
    return file


def test_a_login_comes_from_netrc_and_from_nowhere_else(
    server: Server, netrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    server.files["private.txt"] = TEXT
    server.login = "me:pa55word-of-netrc"
    source = server.source("private.txt", sha256=sha256(TEXT))
    fetch((source,), tmp_path / "raw")
    assert (tmp_path / "raw/web/private.txt").read_bytes() == TEXT

    shutil.rmtree(tmp_path / "cache")
    netrc.write_text("machine 127.0.0.1 login me password an0ther-one\n")
    with pytest.raises(
        UserError, match=r"cannot read http://127.0.0.1\S*: the server refuses it \(HTTP status 401\)"
    ) as refused:
        fetch((source,), tmp_path / "raw")
    assert "an0ther-one" not in str(refused.value)

    netrc.write_text("machine 127.0.0.1 login me pa55word-of-netrc\n")
    with pytest.raises(UserError, match=f"{netrc}: not in the form of a netrc file; correct it") as refused:
        fetch((source,), tmp_path / "raw")
    assert "pa55word" not in str(refused.value)


def test_a_login_is_not_sent_on_to_another_host(server: Server, netrc: Path, tmp_path: Path) -> None:
    server.files["private.txt"] = TEXT
    server.login = "me:pa55word-of-netrc"
    server.redirect = server.url.replace("127.0.0.1", "localhost") + "private.txt"
    with pytest.raises(UserError, match="401"):
        fetch((server.source("moved", sha256=sha256(b"of no cached file")),), tmp_path / "raw")
    assert server.hosts_with_login == {"127.0.0.1"}


@pytest.mark.parametrize("home", ["", "/none", "file"])
def test_without_a_netrc_a_public_source_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home) if home == "file" else home)
    monkeypatch.delenv("NETRC", raising=False)
    server.files["public.txt"] = TEXT
    fetch((server.source("public.txt", sha256=sha256(TEXT)),), tmp_path / "raw")
    assert (tmp_path / "raw/web/public.txt").read_bytes() == TEXT
    monkeypatch.setenv("NETRC", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"gone: cannot be read \(.*No such file.*\); correct it, or set NETRC"):
        fetch((server.source("public2.txt", sha256=sha256(b"")),), tmp_path / "raw")
