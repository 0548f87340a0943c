"""Data that a script of the project makes in an environment of its own."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from gpt.errors import UserError
from gpt.params.sources import ScriptSource
from gpt.sources.fetch import fetch
from gpt.sources.local import describe_sources

SCRIPT = """
import importlib.util, os, sys
assert importlib.util.find_spec("torch") is None, "what the project has is not there"
assert "PYTHONPATH" not in os.environ
with open(sys.argv[1], "w") as file:
    file.write("made\\n")
with open("runs", "a") as file:
    file.write("x")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    Path("make.py").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


def source(**change: Any) -> ScriptSource:
    values = {"kind": "script", "name": "made", "script": "make.py", "requirements": [], "member": "made.jsonl"}
    values |= {"sha256": hashlib.sha256(b"made\n").hexdigest(), "licence": "none"}
    return ScriptSource.model_validate(values | change)


def test_its_file_is_made_once_and_counts_by_its_hash() -> None:
    for output in ("first", "second"):
        assert fetch([source()], Path(output)) == 1
        assert Path(output, "made", "made.jsonl").read_text(encoding="utf-8") == "made\n"
    assert Path("runs").read_text() == "x"


def test_another_file_is_refused_and_nothing_is_changed() -> None:
    fetch([source()], Path("raw"))
    Path("make.py").write_text(SCRIPT.replace("made\\n", "other\\n"), encoding="utf-8")
    wrong = "0" * 64
    with pytest.raises(UserError) as error:
        fetch([source(sha256=wrong)], Path("raw"))
    assert wrong in str(error.value) and hashlib.sha256(b"other\n").hexdigest() in str(error.value)
    assert Path("raw/made/made.jsonl").read_text(encoding="utf-8") == "made\n"


def test_a_changed_script_is_another_input() -> None:
    before = describe_sources([source()])
    Path("make.py").write_text("print(1)", encoding="utf-8")
    assert describe_sources([source()]) != before


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise ValueError('a bug in it')", "make.py failed (exit code 1):"),
        ("import sys; sys.exit('no words')", "no words"),
    ],
)
def test_what_a_script_says_when_it_fails_is_told(script: str, message: str) -> None:
    Path("make.py").write_text(script, encoding="utf-8")
    with pytest.raises(UserError) as error:
        fetch([source()], Path("raw"))
    assert message in str(error.value)


def test_a_script_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"script = none.py: there is no such file"):
        fetch([source(script="none.py")], Path("raw"))


@pytest.mark.slow
def test_what_cannot_be_installed_is_told() -> None:
    with pytest.raises(UserError, match=r"requirements = gpt-no-such-package: cannot be installed"):
        fetch([source(requirements=["gpt-no-such-package"])], Path("raw"))
    assert not list(Path("a cache/environments").iterdir())
