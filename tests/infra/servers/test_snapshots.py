"""What a backup's folder promises: content once, a backup whole or none, damage found before anything is restored."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt.errors import UserError
from infra.servers.snapshots import Manifest, Store, files_below


def back_up(store: Store, folder: Path) -> Manifest:
    """Add a backup of all files of a folder."""
    with store.writing():
        earlier = store.read().files if store.names() else {}
        entries = {name: store.add(path, earlier.get(name)) for name, path in files_below(folder).items()}
        return store.write(entries, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "a").write_bytes(b"one")
    (folder / "deep/er/b ü\n").write_bytes(b"one")
    (folder / "deep/c").write_bytes(os.urandom(3_000_000))
    return folder


def objects(store: Store) -> list[Path]:
    return [path for path in (store.folder / "objects").rglob("*") if path.is_file()]


def test_what_was_kept_comes_back_as_it_was(tmp_path: Path, folder: Path) -> None:
    (folder / "a").chmod(0o444)
    manifest = back_up(store := Store(tmp_path / "kept"), folder)
    store.verify(manifest)
    for name, entry in store.read().files.items():
        store.extract(entry, tmp_path / "back" / name)
    for name, path in files_below(folder).items():
        back = tmp_path / "back" / name
        assert back.read_bytes() == path.read_bytes()
        assert (back.stat().st_mode, back.stat().st_mtime_ns) == (path.stat().st_mode, path.stat().st_mtime_ns)


def test_a_second_backup_copies_only_what_is_new(tmp_path: Path, folder: Path) -> None:
    back_up(Store(tmp_path / "kept"), folder)
    assert len(objects(Store(tmp_path / "kept"))) == 2, "the same content is kept once"
    (folder / "new").write_bytes(b"new!")
    before = time.time_ns()
    back_up(second := Store(tmp_path / "kept"), folder)
    assert second.copied_bytes == 4
    assert [path.read_bytes() for path in objects(second) if path.stat().st_ctime_ns > before] == [b"new!"]
    assert len(second.names()) == 2


def test_only_the_owner_can_read_it(tmp_path: Path, folder: Path) -> None:
    back_up(store := Store(tmp_path / "kept"), folder)
    assert [
        path
        for path in [store.folder, *store.folder.rglob("*")]
        if path.stat().st_mode & 0o077 and path.name != ".lock"
    ] == []


_CUT_OFF = """
import os, sys
from pathlib import Path
from infra.servers.snapshots import Store, files_below
store = Store(Path(sys.argv[1]))
with store.writing() as workplace:
    (workplace / "dump").write_bytes(b"half")
    for path in files_below(Path(sys.argv[2])).values():
        store.add(path)
    if sys.argv[3] == "manifest":
        replace = Path.replace
        Path.replace = lambda self, target: os._exit(9) if str(target).endswith(".json") else replace(self, target)
        store.write({}, {})
    os._exit(9)
"""


@pytest.mark.parametrize("instant", ["copied", "manifest"])
def test_one_that_was_cut_off_is_none_and_the_next_goes_on(tmp_path: Path, folder: Path, instant: str) -> None:
    command = [sys.executable, "-c", _CUT_OFF, tmp_path / "kept", folder, instant]
    assert subprocess.run(command, timeout=60).returncode == 9
    store = Store(tmp_path / "kept")
    with pytest.raises(UserError, match="no backup is here"):
        store.read()
    back_up(store, folder)
    assert store.copied_bytes == 0
    assert [path.name for path in store.folder.rglob(".*") if path.name != ".lock"] == []


def test_damage_is_found_and_named(tmp_path: Path, folder: Path) -> None:
    manifest = back_up(store := Store(tmp_path / "kept"), folder)
    place = store.path_of(manifest.files["deep/c"])
    content = bytearray(place.read_bytes())
    content[1_000_000] ^= 1
    place.chmod(0o600)
    place.write_bytes(content)
    with pytest.raises(UserError, match=r"deep/c is damaged; nothing was restored"):
        store.verify(manifest)
    store.path_of(manifest.files["a"]).unlink()
    with pytest.raises(UserError, match=r"a is gone"):
        store.verify(manifest)
    path = store.folder / "backups" / f"{manifest.name}.json"
    values = json.loads(path.read_text())
    del values["files"]["a"]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="is not what was written"):
        store.read()


def test_old_backups_go_with_what_they_alone_have(tmp_path: Path, folder: Path) -> None:
    store = Store(tmp_path / "kept")
    for content in (b"1", b"2", b"3"):
        (folder / "a").write_bytes(content)
        manifest = back_up(store, folder)
    with store.writing():
        store.prune(keep=1)
    assert store.names() == [manifest.name]
    store.verify(manifest)
    assert len(objects(store)) == 3


def test_a_folder_with_other_things_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="which is no backup's"), Store(folder).writing():
        raise AssertionError
    assert sorted(path.name for path in folder.iterdir()) == ["a", "deep"]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "kept").writing(), Store(tmp_path / "kept").writing()
    with first, pytest.raises(UserError, match="another backup is written here"), second:
        raise AssertionError
