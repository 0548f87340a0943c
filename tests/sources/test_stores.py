"""Folders and patterns in object stores: which files they mean, what fixes them, and what happens when the store changes."""

import functools
import hashlib
import http.server
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from pydantic import ValidationError

from gpt.errors import UserError
from gpt.files import sha256_tree
from gpt.params.sources import UrlSource
from gpt.sources.fetch import fetch
from gpt.sources.manifests import manifest_file, read_manifest, write_manifest
from gpt.sources.pinning import find_pin
from tests.sources.store import KEY, Store, s3

FILES = {
    "a.txt": b"a" * 100,
    "deep/b.txt": b"b" * 200,
    "deep/c d é+.txt": b"c" * 300,  # a name that an address must quote
    "deep/e.jsonl": b"{}\n",
    ".hidden/f.txt": b"f",
    "g.txt": random.Random(0).randbytes(100_000),
}
TEXTS = ["a.txt", "deep/b.txt", "deep/c d é+.txt", "g.txt"]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, in which data/manifests lies, with a cache of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with s3() as running:
        running.objects = {f"bucket/texts/{name}": data for name, data in FILES.items()} | {
            "bucket/other.txt": b"other"
        }
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-no-meaning-here")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        new_client()
        yield running


def new_client() -> None:
    """Forget the connections of clients of other tests, which fsspec keeps."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same files on the disk."""
    for name, data in FILES.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_bytes(data)
    return tmp_path / "texts"


def many(url: str, sha256: str = "0" * 64) -> UrlSource:
    return UrlSource(kind="url", name="texts", url=url, sha256=sha256, members=(), licence="CC0")


def pinned(url: str) -> UrlSource:
    """What `gpt data hash` makes of a source."""
    pin = find_pin(many(url), {})
    assert pin.files is not None
    write_manifest("texts", pin.files)
    return many(url, pin.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(source: UrlSource, names: list[str]) -> None:
    assert fetch((source,), Path("raw")) == len(names)
    assert contents(Path("raw/texts")) == {name: FILES[name] for name in names}
    assert sha256_tree(Path("raw/texts")) == source.sha256, "the same hash as that of a local folder with these files"


@pytest.mark.parametrize("pattern", ["*.txt", ""])
def test_a_pattern_or_a_folder_of_s3_comes_whole(store: Store, pattern: str) -> None:
    check(pinned(f"s3://bucket/texts/{pattern}"), TEXTS if pattern else sorted([*TEXTS, "deep/e.jsonl"]))
    assert manifest_file("texts").read_text().startswith(f"{hashlib.sha256(FILES['a.txt']).hexdigest()}  a.txt\n")


def test_a_folder_of_the_web_comes_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(_Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        check(pinned(f"http://127.0.0.1:{server.server_port}/texts/*.txt"), TEXTS)
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_folder_of_the_disk_and_of_memory_comes_whole(folder: Path) -> None:
    check(pinned(f"file://{folder}/*.txt"), TEXTS)
    system = fsspec.filesystem("memory")
    for name, data in FILES.items():
        system.pipe(f"/of-this-test/{name}", data)
    check(pinned("memory://of-this-test/*.txt"), TEXTS)


def test_what_was_fetched_needs_no_store_and_a_new_clone_only_the_manifest(store: Store) -> None:
    source = pinned("s3://bucket/texts/*.txt")
    assert len(store.got) == len(TEXTS), "each file once, to find its hash"
    store.got.clear()
    store.objects.clear()
    check(source, TEXTS)
    assert store.got == []


def test_the_second_look_at_a_store_fetches_only_what_is_other(store: Store) -> None:
    pinned("s3://bucket/texts/*.txt")
    store.got.clear()
    store.objects["bucket/texts/a.txt"] = b"A" * 100
    store.objects["bucket/texts/h.txt"] = b"h"
    pinned("s3://bucket/texts/*.txt")
    assert sorted(line.split()[0] for line in store.got) == ["bucket/texts/a.txt", "bucket/texts/h.txt"]


def forget() -> None:
    """Make this machine one that has fetched nothing."""
    shutil.rmtree(os.environ["GPT_CACHE"])


def test_files_that_changed_or_vanished_are_one_message_and_new_ones_change_nothing(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    source = pinned("s3://bucket/texts/*.txt")
    forget()
    store.objects["bucket/texts/h.txt"] = b"h"
    check(source, TEXTS)
    assert (
        "source texts: the store has changed, the data have not: new: 1 (h.txt); `gpt data hash texts` takes it over"
        in caplog.text
    )

    forget()
    store.objects["bucket/texts/a.txt"] = b"other"
    store.objects["bucket/texts/deep/b.txt"] = b"another"
    with pytest.raises(
        UserError, match=r"the store against data/manifests/texts.sha256: changed: 2 \(a.txt, deep/b.txt\)"
    ) as caught:
        fetch((source,), Path("raw"))
    assert str(caught.value).endswith("if that is what you want, `gpt data hash texts` writes it into params.yaml")
    assert contents(Path("raw/texts"))["a.txt"] == FILES["a.txt"], "what was there is as it was"

    del store.objects["bucket/texts/a.txt"]
    with pytest.raises(UserError, match=r"sha256: new: 1 \(h.txt\); gone: 1 \(a.txt\)"):
        fetch((source,), Path("raw"))


def test_a_large_file_of_a_store_is_gone_on_with(store: Store, tmp_path: Path) -> None:
    source = pinned("s3://bucket/texts/*.txt")
    forget()
    part = tmp_path / "cache" / "fetch" / f"{hashlib.sha256(FILES['g.txt']).hexdigest()}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(FILES["g.txt"][:60_000])
    store.got.clear()
    check(source, TEXTS)
    (asked,) = [line for line in store.got if line.startswith("bucket/texts/g.txt")]
    assert int(asked.split()[1].split("-")[0]) == 60_000


def test_a_store_without_the_right_key_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHER")
    new_client()
    with pytest.raises(UserError, match=r"^cannot read s3://bucket/texts/: PermissionError: .*; a login comes from "):
        find_pin(many("s3://bucket/texts/*.txt"), {})


@pytest.mark.parametrize(
    ("url", "message"),
    [("s3://bucket/texts/*.md", r"nothing in s3://bucket/texts/ matches '\*.md': it holds 6 files, such as .hidden/f.txt, a.txt"),
     ("s3://bucket/none/", "it holds no file")],
)  # fmt: skip
def test_what_matches_nothing_is_one_line(store: Store, url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_pin(many(url), {})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            Path.unlink,
            "which lists its files, is not there; bring it back from git, or `gpt data hash texts` writes it anew",
        ),
        (lambda file: file.write_text("other\n"), "which lists its files, has sha256 .*, and params.yaml says"),
    ],
)
def test_a_manifest_that_is_not_the_one_of_params_is_refused(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    source = pinned(f"file://{folder}/")
    spoil(manifest_file("texts"))
    with pytest.raises(UserError, match=message):
        fetch((source,), Path("raw"))


def test_members_of_many_files_are_refused() -> None:
    with pytest.raises(ValidationError, match="members: are of one archive, and url names many files"):
        UrlSource(kind="url", name="a", url="s3://b/*.zip", sha256="0" * 64, members=("*.txt",), licence="CC0")


def test_the_manifest_is_in_the_form_of_sha256sum(folder: Path) -> None:
    source = pinned(f"file://{folder}/")
    listed = subprocess.run(
        ["sha256sum", "--check", "--quiet", Path.cwd() / manifest_file("texts")], cwd=folder, check=False
    )
    assert listed.returncode == 0
    assert [*read_manifest("texts", source.sha256)] == sorted([*TEXTS, "deep/e.jsonl"])
    assert sys.getfilesystemencoding() == "utf-8"
