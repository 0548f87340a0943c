import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.files import (
    atomic_file,
    atomic_folder,
    parse_yaml,
    read_json,
    sha256_file,
    sha256_json,
    sha256_tree,
    write_json,
)
from tests import ROOT


class Boom(Exception):
    pass


def test_a_file_appears_whole_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic_file(path) as partial:
        assert partial.parent == path.parent  # the same file system: a rename suffices
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("old", ["old", None])
def test_a_file_that_fails_leaves_the_old_one_and_no_litter(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "file.txt"
    if old:
        path.write_text(old)

    def fail() -> None:
        with atomic_file(path) as partial:
            partial.write_text("half")
            raise Boom

    with pytest.raises(Boom):
        fail()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == ([("file.txt", old)] if old else [])


@pytest.mark.parametrize("old", [True, False])
def test_a_folder_that_fails_leaves_the_old_one_and_no_litter(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "folder"
    if old:
        path.mkdir()
        (path / "kept.txt").write_text("old")

    def fail() -> None:
        with atomic_folder(path) as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / "half.txt").write_text("half")
            raise Boom

    with pytest.raises(Boom):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == (["folder"] if old else [])
    assert [entry.name for entry in path.rglob("*")] == (["kept.txt"] if old else [])


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with atomic_folder(path) as partial:
            (partial / name).write_text(name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert [entry.name for entry in path.iterdir()] == ["second"]


# Replaces a folder (or writes a new one, or a file) in forks of itself that are killed at one line of gpt/files.py after the other.
KILLER = """
import json, os, signal, sys
from pathlib import Path
import gpt.files
from gpt.files import atomic_file, atomic_folder

what, begins_with_old, exchanges = sys.argv[1], sys.argv[2] == "old", sys.argv[3] == "exchange"
if not exchanges:
    gpt.files.exchange = lambda first, second: False

def write(path, text):
    if what == "folder":
        with atomic_folder(path) as partial:
            for name in ("a", "b"):
                (partial / name).write_text(text)
    else:
        with atomic_file(path) as partial:
            partial.write_text(text)

def look(path):
    if not path.exists():
        return None
    files = sorted(path.iterdir()) if what == "folder" else [path]
    return [file.read_text() for file in files]

def die_at(line):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename != gpt.files.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

line, seen = 0, []
while True:
    line += 1
    path = Path(str(line)) / "it"
    path.parent.mkdir()
    if begins_with_old:
        write(path, "old")
    pid = os.fork()
    if not pid:
        die_at(line)
        write(path, "new")
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    after_kill, left = look(path), len(os.listdir(path.parent)) - path.exists()
    try:
        if what == "folder":
            with atomic_folder(path):
                before_next = look(path)
                raise KeyError
        with atomic_file(path):
            before_next = look(path)
            raise KeyError
    except KeyError:
        pass
    litter = [name for name in os.listdir(path.parent) if name != path.name]
    seen.append([after_kill, left, before_next, look(path), litter])
    if os.waitstatus_to_exitcode(status) == 0:
        break
print(json.dumps(seen))
"""


def kill_at_every_line(folder: Path, *what: str) -> list[tuple[list[str] | None, int, list[str] | None]]:
    """Return what a reader sees after each kill, how much litter lies there, and what a writer that fails afterwards leaves."""
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *what],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) > 20, "that many lines a writer runs through"
    for _, _, before_next, after_next, litter in seen:
        assert not litter, "the next writer clears up"
        assert before_next == after_next
    assert seen[-1][1] == 0
    return [(after_kill, left, after_next) for after_kill, left, _, after_next, _ in seen]


WHAT = {"folder": (["old", "old"], ["new", "new"]), "file": (["old"], ["new"])}


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("before", ["old", "nothing"])
def test_killed_at_any_line_a_writer_leaves_old_or_new_whole_and_the_next_one_clears_up(
    tmp_path: Path, what: str, before: str
) -> None:
    old, new = WHAT[what]
    seen = kill_at_every_line(tmp_path, what, before, "exchange")
    states = [after_kill for after_kill, *_ in seen]
    first_new = states.index(new)
    assert all(state == (old if before == "old" else None) for state in states[:first_new])
    assert all(state == new for state in states[first_new:])
    assert all(after_kill == after_next for after_kill, _, after_next in seen)
    assert any(left for _, left, _ in seen), "some kills come while there is something to clear up"


def test_where_folders_cannot_change_places_the_next_writer_puts_the_old_one_back(tmp_path: Path) -> None:
    old, new = WHAT["folder"]
    seen = kill_at_every_line(tmp_path, "folder", "old", "no exchange")
    assert {str(after_kill) for after_kill, *_ in seen} == {str(old), "None", str(new)}
    for after_kill, _, after_next in seen:
        assert after_next == (after_kill or old)


def test_another_writer_at_work_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "it"
    with atomic_folder(path) as first:
        (first / "a").write_text("first")
        with atomic_folder(path) as second:
            (second / "a").write_text("second")
        assert (first / "a").read_text() == "first"
    assert (path / "a").read_text() == "first", "who comes last"
    assert list(tmp_path.iterdir()) == [path]


def test_only_what_a_writer_of_the_same_name_left_is_removed(tmp_path: Path) -> None:
    others = [".it", ".it.json", ".it.12345678", ".it.partial", ".item.12345678.partial", "it.12345678.partial"]
    for name in others:
        (tmp_path / name).write_text("a user's")
    (tmp_path / ".it.12345678.partial").write_text("left by a kill")
    write_json(tmp_path / "it", 1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*others, "it"])


def test_a_folder_takes_the_place_of_a_link_and_leaves_what_it_points_to(tmp_path: Path) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "it"
    elsewhere.mkdir()
    (elsewhere / "a").write_text("kept")
    path.symlink_to(elsewhere)
    with atomic_folder(path) as partial:
        (partial / "a").write_text("new")
    assert (elsewhere / "a").read_text() == "kept"
    assert (path / "a").read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [elsewhere, path]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with atomic_file(tmp_path / "file") as partial:
            partial.write_text("")
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


def test_a_folders_hash_is_that_of_its_sha256sum_listing(tmp_path: Path) -> None:
    # Byte order puts `a.txt` before `a/b`, an order by path components does not.
    for name in ("a/b", "a.txt", "a-b", "B", "ü/x y", "a/c/d", "empty"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty" else name)
    (tmp_path / "no file").mkdir()
    command = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    listing = subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True)  # noqa: S602
    assert sha256_tree(tmp_path) == listing.stdout.split()[0]


def test_a_folders_hash_knows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    hashes = {sha256_tree(tmp_path)}
    (tmp_path / "a").rename(tmp_path / "b")
    hashes.add(sha256_tree(tmp_path))
    (tmp_path / "b").write_text("2")
    hashes.add(sha256_tree(tmp_path))
    (tmp_path / os.fsdecode(b"\xff")).write_text("a name that is not UTF-8")
    hashes.add(sha256_tree(tmp_path))
    assert len(hashes) == 4


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_files_hash_does_not_depend_on_how_it_is_read(tmp_path: Path, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@settings(deadline=None, max_examples=50)
def test_a_json_hash_does_not_depend_on_the_order_of_keys(value: object) -> None:
    def turned(value: object) -> object:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert sha256_json(turned(value)) == sha256_json(value)


@given(VALUES)
@settings(deadline=None, max_examples=50)
def test_json_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path, "") == value
    assert path.read_bytes().endswith(b"\n")


def test_json_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="nan"):
        write_json(path, [1, float("nan")])
    assert json.loads(path.read_text()) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found"),
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b'{"a": 1}', "has no b, c"),
        (b"[1]", "has no a, b, c"),
        (b"null", "has no a, b, c"),
    ],
)
def test_json_that_is_missing_or_damaged_says_what_to_do(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"value\.json: {message}.*; run it {'first' if content is None else 'again'}$"
    ) as caught:
        read_json(path, "run it again", keys=("a", "b", "c"))
    assert str(path) in str(caught.value)


def test_yaml_that_was_parsed_before_is_a_copy_and_means_what_it_means_to_dvc() -> None:
    text = "rate: 1e-3\nanswer: no\nlist: [1]\n"
    first = parse_yaml(text)
    assert first == {"rate": 0.001, "answer": "no", "list": [1]}
    first["list"].append(2)
    assert parse_yaml(text)["list"] == [1]


def test_what_a_link_in_a_folder_points_at_is_left_alone(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with atomic_folder(tmp_path / "folder") as partial:
        (partial / "link").symlink_to(program)
        (partial / "broken").symlink_to("nowhere")
    assert program.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "folder" / "link").read_text() == "#!/bin/sh\n"
