import os
import time
from pathlib import Path

import pytest

from gpt.errors import UserError
from gpt.params.sources import LocalSource
from gpt.sources import local
from gpt.sources.fetch import fetch
from gpt.sources.local import check_content, content_hash


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remember files at once: as if what was written had been there for a while."""
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "_SETTLED_NS", -time.time_ns())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("b.txt", "a.txt"):
        (folder / name).write_text(f"text of {name}")
    return folder


def test_what_did_not_change_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_hash(folder)
    monkeypatch.setattr(local, "sha256_file", lambda path: pytest.fail(f"{path} was read"))
    assert content_hash(folder) == before


@pytest.mark.parametrize("single", [True, False])
def test_a_file_of_the_same_size_with_the_time_of_the_one_before_it_is_another(folder: Path, single: bool) -> None:
    """What `cp --preserve` and `rsync --times` leave."""
    file = folder / "a.txt"
    path = file if single else folder
    before, times = content_hash(path), file.stat()
    file.write_text("TEXT of a.txt")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns and file.stat().st_size == times.st_size
    assert content_hash(path) != before


def test_a_file_that_changed_just_now_is_not_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again within the same tick of its time."""
    monkeypatch.setattr(local, "_SETTLED_NS", 3_600_000_000_000)
    content_hash(folder)
    read: list[Path] = []
    real = local.sha256_file
    monkeypatch.setattr(local, "sha256_file", lambda path: read.append(path) or real(path))
    content_hash(folder)
    assert len(read) == 2


def test_what_is_not_there_has_no_hash(folder: Path) -> None:
    assert content_hash(folder / "c.txt") is None


@pytest.mark.parametrize(
    "damaged",
    ["[]", "1", '"text"', "null", '{"a.txt": 1}', '{"a.txt": [[1], 2]}', '{"a.txt": []}', "[" * 100_000, "{", "\0"],
)
def test_a_memory_that_is_damaged_is_forgotten(folder: Path, tmp_path: Path, damaged: str) -> None:
    before = content_hash(folder)
    (memory,) = (tmp_path / "cache" / "hashes").iterdir()
    memory.write_text(damaged)
    assert content_hash(folder) == before
    assert content_hash(folder) == before
    memory.write_bytes(b"\xff\xfe")
    assert content_hash(folder) == before


def test_an_experiment_in_a_copy_of_the_project_finds_the_text_beside_the_project(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --temp` and `--queue` run in .dvc/tmp/exps, which holds what git tracks."""
    source = LocalSource(kind="local", name="texts", path="../texts", sha256=content_hash(folder) or "", licence="none")
    copy = tmp_path / "project/.dvc/tmp/exps/standalone/x"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match="not found"):
        check_content(source)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    assert check_content(source) is None
    assert fetch((source,), tmp_path / "raw") == 2


def test_a_link_to_a_folder_that_it_lies_in_is_left_out_and_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "deep").mkdir()
    (folder / "deep/c.txt").write_text("c")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/d.txt").write_text("d")
    before = content_hash(folder)
    (folder / "deep/up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (folder / "above").symlink_to("..")
    (tmp_path / "elsewhere/back").symlink_to(folder)
    assert content_hash(folder) == before
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    for path in (folder, folder / "*"):
        found = local.find_files(path)
        assert found is not None
        assert found.names == ["a.txt", "b.txt", "deep/c.txt", "linked/d.txt"]
        assert sorted(found.left_out) == ["above", "deep/up", "linked/back", "self"]
    source = LocalSource(kind="local", name="texts", path=str(folder), sha256=str(content_hash(folder)), licence="CC0")
    assert fetch((source,), tmp_path / "raw") == 4
    assert "left out" in caplog.text and "4 (above, deep/up, linked/back, …)" in caplog.text
