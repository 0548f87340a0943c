"""Data sets of the Hugging Face hub through its own library, from a server that answers as the hub does."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from gpt.errors import UserError
from gpt.params.sources import HuggingFaceSource
from gpt.sources.fetch import fetch
from gpt.sources.stores.hub import find_commit
from tests import ROOT
from tests.sources.hub import Hub, git_hash, hub_of

TEXT = b"It was the best of times, it was the worst of times.\n" * 40  # 2,120 bytes: large for this hub
FILES = {
    "README.md": b"# Times\n",
    ".gitattributes": b"*.txt filter=lfs\n",
    "data/train/a.txt": TEXT,
    "data/train/b.txt": b"small",
    "data/test.txt": TEXT[:-1],
    "data/.hidden.txt": b"hidden",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_of("tales/times", tmp_path, monkeypatch) as running:
        yield running


def source(revision: str, *patterns: str) -> HuggingFaceSource:
    return HuggingFaceSource(
        kind="huggingface",
        name="times",
        repository="tales/times",
        revision=revision,
        patterns=patterns or ("data/*",),
        licence="CC0",
    )


def contents(raw: Path) -> dict[str, bytes]:
    files = [path for path in (raw / "times").rglob("*") if path.is_file()]
    return {path.relative_to(raw / "times").as_posix(): path.read_bytes() for path in files}


def fails(source: HuggingFaceSource, raw: Path) -> str:
    with pytest.raises(UserError, match=r"^params\.yaml: fetch\.sources times: ") as caught:
        fetch((source,), raw)
    assert not raw.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_files_of_a_commit_come_verified_and_the_next_commit_brings_only_what_is_new(
    server: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = server.sets["tales/times"].commit(FILES)
    assert fetch((source(first),), tmp_path / "raw") == 3
    assert contents(tmp_path / "raw") == {
        name: FILES[name] for name in ("data/train/a.txt", "data/train/b.txt", "data/test.txt")
    }
    assert "left out as hidden or no files: 1 (data/.hidden.txt)" in caplog.text
    listed = json.loads((tmp_path / "raw" / "sources.json").read_text())
    assert listed[0]["files"]["data/train/a.txt"] == {"bytes": len(TEXT), "sha256": hashlib.sha256(TEXT).hexdigest()}

    second = server.sets["tales/times"].commit(FILES | {"data/train/c.txt": b"new", "data/train/b.txt": b"other"})
    server.asked.clear()
    assert fetch((source(second),), tmp_path / "raw") == 4
    assert contents(tmp_path / "raw")["data/train/b.txt"] == b"other"
    got = {line.rsplit("/", 1)[1] for line in server.asked if "/resolve/" in line or "/large/" in line}
    assert got == {"b.txt", "c.txt"}

    server.asked.clear()
    assert fetch((source(first, "data/train/*"),), tmp_path / "raw") == 2, "the first commit stays what it was"
    assert contents(tmp_path / "raw")["data/train/b.txt"] == b"small"
    assert server.asked == [], "what this machine has fetched needs no hub"


KILLED = """
import sys
from pathlib import Path
from gpt.params.sources import HuggingFaceSource
from gpt.sources.fetch import fetch
from gpt.sources.stores.hub import find_commit
place = {"repository": "tales/times", "revision": sys.argv[1], "patterns": ["*.bin"]}
source = HuggingFaceSource(kind="huggingface", name="times", licence="CC0", **place)
fetch((source,), Path(sys.argv[2]))
"""


def test_a_fetch_that_was_killed_goes_on_where_it_was(server: Hub, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(25_000_000)  # the library writes pieces of ten megabytes
    commit = server.sets["tales/times"].commit({"large.bin": data})
    server.stalls_at = 21_000_000
    command = [sys.executable, "-c", KILLED, commit, str(tmp_path / "raw")]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        assert server.stalled.wait(60)
        part = tmp_path / "cache" / "fetch" / f"{hashlib.sha256(data).hexdigest()}.part"
        while not part.exists() or part.stat().st_size < 20_000_000:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "raw").exists()
    have = part.stat().st_size
    server.stalls_at, server.sent = None, 0
    server.asked.clear()
    fetch((source(commit, "*.bin"),), tmp_path / "raw")
    assert contents(tmp_path / "raw") == {"large.bin": data}
    assert server.sent == len(data) - have
    assert any(line.endswith(f"bytes={have}-") for line in server.asked)


def test_a_part_of_another_file_is_not_gone_on_with(server: Hub, tmp_path: Path) -> None:
    commit = server.sets["tales/times"].commit(FILES)
    part = tmp_path / "cache" / "fetch" / f"{hashlib.sha256(TEXT).hexdigest()}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)
    fetch((source(commit, "*/a.txt"),), tmp_path / "raw")
    assert contents(tmp_path / "raw") == {"data/train/a.txt": TEXT}


def test_a_name_that_leads_out_of_the_folder_is_refused(server: Hub, tmp_path: Path) -> None:
    commit = server.sets["tales/times"].commit({"data/../../../evil.txt": b"evil"})
    assert "the data set's file 'data/../../../evil.txt' leaves its folder" in fails(source(commit), tmp_path / "raw")
    assert not any("/resolve/" in line for line in server.asked)


def test_what_the_hub_does_not_list_so_is_refused(server: Hub, tmp_path: Path) -> None:
    commit = server.sets["tales/times"].commit(FILES)
    server.spoils = True
    assert "what came for data/train/a.txt is not the file that the hub lists" in fails(
        source(commit, "*/a.txt"), tmp_path / "raw"
    )


OFFLINE = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("tales/times", repo_type="dataset", revision=sys.argv[1]))
"""


def test_what_the_hubs_own_library_has_fetched_needs_no_network(server: Hub, tmp_path: Path) -> None:
    """Files behind pointers too, of which the library's cache knows the pointer's hash only."""
    commit = server.sets["tales/times"].commit(FILES)
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    subprocess.run([sys.executable, "-c", OFFLINE, commit], check=True, env=environment, stdout=subprocess.DEVNULL)
    server.asked.clear()
    killed = KILLED.replace('["*.bin"]', '["data/train/*"]')
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", killed, commit, str(tmp_path / "raw")], check=True, env=offline, cwd=ROOT)
    assert contents(tmp_path / "raw") == {name: FILES[name] for name in ("data/train/a.txt", "data/train/b.txt")}
    assert server.asked == []

    unknown = subprocess.run(
        [sys.executable, "-c", killed, "1" * 40, str(tmp_path / "raw")],
        env=offline,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is not on this machine, and HF_HUB_OFFLINE forbids to ask the hub" in unknown.stderr


def test_a_token_reaches_the_hub_and_nobody_else(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = server.sets["tales/times"].commit(FILES)
    server.sets["tales/times"].token = "hf_thisIsTheTokenOfTheTest"
    message = fails(source(commit), tmp_path / "raw")
    assert "the hub has no data set tales/times, or shows it to others only" in message
    assert "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "hf_thisIsTheTokenOfTheTest")
    assert fetch((source(commit),), tmp_path / "raw") == 3
    assert any("/large/" in line for line in server.asked)
    assert server.tokens_at_store == []
    assert "hf_this" not in caplog.text


def test_each_refusal_is_one_line_that_says_what_to_do(server: Hub, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    known = server.sets["tales/times"]
    commit = known.commit(FILES)
    assert "revision: tales/times has no 1111111" in fails(source("1" * 40), raw)
    message = fails(source(commit, "data/*", "*.parquet"), raw)
    assert (
        "patterns: nothing in the data set matches '*.parquet'; it holds 6 files, such as .gitattributes, README.md"
        in message
    )
    other = known.commit(FILES | {"more.txt": b"more"})
    known.gated = True
    assert f"tales/times is gated: accept its conditions at {server.url}/datasets/tales/times" in fails(
        source(other), raw
    )
    del server.sets["tales/times"]
    assert "the hub has no data set tales/times" in fails(source(other), raw)


def test_a_hub_that_is_away_is_one_line(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"cannot read tales/times from http://127.0.0.1:9/datasets/tales/times: .*; check the net"
    ):
        find_commit("tales/times", "main")


@pytest.mark.parametrize("revision", ["main", "1588ec4", "A" * 40])
def test_a_revision_that_may_move_is_refused_with_how_to_pin_it(revision: str) -> None:
    with pytest.raises(
        ValidationError, match=r"must be a commit, 40 hexadecimal digits.*`gpt data hash` writes the commit"
    ):
        source(revision)


def test_the_server_hashes_as_git_does(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(TEXT)
    found = subprocess.run(["git", "hash-object", str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == git_hash(TEXT)
