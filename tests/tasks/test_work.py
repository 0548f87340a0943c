import fcntl
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt.code import code_hash
from gpt.errors import UserError
from gpt.tasks.work import IDENTITY, work_folder

SETTINGS = {"prepare.split_seed": 1, "prepare.filters": []}
INPUTS = {"data/raw/a": "0" * 64}
CODE = 'def clean(text: str) -> str:\n    """Return it clean."""\n    return text.strip()\n'


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The one file of code that the stage has, with the version of a library."""
    path = tmp_path / "cleaning.py"
    path.write_text(CODE)
    versions = {"ftfy": "6.3"}

    def identity(stage: str) -> dict[str, Any]:
        code_hash.cache_clear()
        return {"code": {f"gpt/{stage}.py": code_hash(path)}, "versions": dict(versions)}

    monkeypatch.setattr("gpt.tasks.work.stage_identity", identity)
    yield path
    code_hash.cache_clear()


def begin(root: Path, note: str = "begun", *, done: bool = True, **change: Any) -> str | None:
    """Start the stage, do a task, and be stopped; return the note that a task before has left in the folder."""
    before = None
    settings = SETTINGS | {f"prepare.{key}": value for key, value in change.items()}
    try:
        with work_folder(root / "documents", "prepare", settings, INPUTS) as work:
            path = work / "note"
            if path.exists():
                before = path.read_text()
            path.write_text(before or note)
            (work / "tasks/read/completions").mkdir(parents=True, exist_ok=True)
            if done:
                (work / "tasks/read/completions/00000").touch()
            raise Stopped
    except Stopped:
        pass
    return before


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


CHANGES: dict[str, Callable[[str], str]] = {
    "a comment": lambda code: code + "# why\n",
    "a docstring": lambda code: code.replace("Return it clean.", "Return the text, clean."),
    "the layout": lambda code: code.replace("(text: str)", "(\n    text: str,\n)"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_work_goes_on_after_a_change_that_computes_nothing(
    tmp_path: Path, source: Path, change: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    assert begin(tmp_path, "first") is None
    source.write_text(change(CODE))
    assert begin(tmp_path) == "first"
    assert not caplog.records


def test_work_goes_on_on_another_machine_and_after_this_one_was_started_again(tmp_path: Path) -> None:
    begin(tmp_path)
    identity = (tmp_path / ".documents.work" / IDENTITY).read_text()
    assert json.loads(identity).keys() == {"settings", "inputs", "code", "versions"}
    boot = Path("/proc/sys/kernel/random/boot_id")
    of_the_machine = [
        socket.gethostname(),
        sys.version.split()[0],
        *([boot.read_text().strip()] if boot.exists() else []),
    ]
    assert not [value for value in of_the_machine if value in identity], "nothing that is this machine's decides"
    assert begin(tmp_path) == "begun"


def test_a_changed_setting_is_said_and_the_work_set_aside_until_it_is_changed_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(tmp_path, "first")
    assert begin(tmp_path, "second", split_seed=5) is None
    assert "params.yaml: prepare.split_seed was 1, is 5" in caplog.text
    (aside,) = [name for name in folders(tmp_path) if name != ".documents.work"]
    assert aside in caplog.text
    assert begin(tmp_path) == "first", "changed back, it goes on"
    assert begin(tmp_path, split_seed=5) == "second", "and back again"
    assert len(folders(tmp_path)) == 2


def test_one_folder_that_was_set_aside_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in (1, 2, 3):
        begin(tmp_path, f"of {seed}", split_seed=seed)
    (removed,) = [record.getMessage() for record in caplog.records if "removed, since" in record.getMessage()]
    assert len(folders(tmp_path)) == 2
    assert not [name for name in folders(tmp_path) if f"/{name}:" in removed]
    assert begin(tmp_path, split_seed=2) == "of 2"
    assert begin(tmp_path, "anew", split_seed=1) is None


def test_nothing_is_set_aside_of_work_in_which_nothing_is_done(tmp_path: Path) -> None:
    begin(tmp_path, "first")
    assert begin(tmp_path, "half", done=False, split_seed=5) is None
    begin(tmp_path, "second", split_seed=7)
    assert begin(tmp_path) == "first", "a start that did nothing costs nobody's work"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda source, patch: source.write_text(CODE.replace("strip", "lower")), "gpt/prepare.py: computes otherwise"),
        (lambda source, patch: patch.setitem(INPUTS, "data/raw/a", "1" * 64), "data/raw/a: other content"),
        (lambda source, patch: patch.setitem(INPUTS, "data/raw/b", "1" * 64), "data/raw/b: new"),
    ],
    ids=["code", "input", "new input"],
)
def test_what_differs_is_said(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Path, pytest.MonkeyPatch], Any],
    message: str,
) -> None:
    begin(tmp_path)
    change(source, monkeypatch)
    assert begin(tmp_path) is None
    assert message in caplog.text


def test_an_upgraded_library_is_said_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin(tmp_path)
    monkeypatch.setattr("gpt.tasks.work.stage_identity", lambda _: {"code": {}, "versions": {"ftfy": "7.0"}})
    begin(tmp_path)
    assert "version of ftfy: was 6.3, is 7.0" in caplog.text


def test_work_that_does_not_say_what_it_was_made_with_is_not_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(tmp_path)
    (tmp_path / ".documents.work" / IDENTITY).unlink()
    assert begin(tmp_path) is None
    assert "does not say what it was made with" in caplog.text


def test_another_process_that_makes_the_same_is_told_of(tmp_path: Path) -> None:
    with (tmp_path / ".documents.work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is making it"):
            begin(tmp_path)
    assert not (tmp_path / ".documents.work").exists()


def test_the_folder_goes_when_the_output_is_whole(tmp_path: Path) -> None:
    begin(tmp_path)
    with work_folder(tmp_path / "documents", "prepare", SETTINGS, INPUTS):
        pass
    assert folders(tmp_path) == []
