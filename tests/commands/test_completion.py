"""Completion, in a real bash at a real terminal, and what the other shells' scripts ask for."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gpt.commands.main import main
from tests import ROOT
from tests.tracking.terminal.screen import run_in_terminal


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with registered models, and `gpt` on the PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").touch()
    (tmp_path / "models" / "base").mkdir(parents=True)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("insert into registered_models (name) values ('poems')")
        database.execute("insert into model_versions (name, version, current_stage) values ('poems', 3, 'None')")
        database.execute("insert into registered_model_aliases (name, alias, version) values ('poems', 'champion', 3)")
    gpt = tmp_path / "bin" / "gpt"
    gpt.parent.mkdir()
    gpt.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gpt "$@"\n')
    gpt.chmod(0o755)
    return tmp_path


def environment(project: Path) -> dict[str, str]:
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    return {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "HOME": str(project),
        "PS1": "$ ",
        "INPUTRC": "/dev/null",
    }


BEGUN = {
    "gpt pretr": "gpt pretrain ",
    "gpt tokens sh": "gpt tokens show ",
    "gpt generate x --temp": "gpt generate x --temperature ",
    "gpt tokens show --split val": "gpt tokens show --split validation ",
    "gpt generate x --model models:/po": "gpt generate x --model models:/poems",
    "gpt generate x --model models:/poems@": "gpt generate x --model models:/poems@champion ",
    "gpt lineage @ch": "gpt lineage @champion ",
    "gpt reproduce models:/poems/": "gpt reproduce models:/poems/3 ",
    "gpt export out --model mo": "gpt export out --model models/",
}


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_completes_what_was_begun(project: Path) -> None:
    (project / ".bashrc").write_text('eval "$(gpt completion bash)"\nPS1="ready> "\n')
    clear = "\x15"
    typed = [*(f"{clear}{begun}\t" for begun in BEGUN), f"{clear}exit\r"]
    awaited = ["ready> ", *BEGUN.values()]
    seen = 0

    def answer(written: str, terminal: int, process: int) -> None:
        nonlocal seen
        if awaited and awaited[0] in plain(written[seen:]):
            seen = len(written)
            awaited.pop(0)
            os.write(terminal, typed.pop(0).encode())

    bash = [shutil.which("bash") or "", "--noprofile", "--rcfile", str(project / ".bashrc"), "-i"]
    code, _ = run_in_terminal(
        bash, environment=environment(project), folder=project, answer=answer, seconds=100, columns=200
    )
    assert code == 0
    assert not awaited


def plain(written: str) -> str:
    return written.replace("\x1b[?2004h", "").replace("\x1b[?2004l", "").replace("\x07", "").replace("\x1b[C", "")


@pytest.mark.parametrize(
    ("instruction", "asked", "expected"),
    [
        ("zsh_complete", {"COMP_WORDS": "gpt tokens show --spl", "COMP_CWORD": "3"}, "plain\n--split\ndefault: train"),
        ("fish_complete", {"COMP_WORDS": "gpt roll", "COMP_CWORD": "roll"}, "plain\trollback\t"),
    ],
)
def test_other_shells_are_answered(
    instruction: str,
    asked: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in (asked | {"_GPT_COMPLETE": instruction}).items():
        monkeypatch.setenv(name, value)
    assert main([]) == 0
    assert expected.replace("\t", "") in capfd.readouterr().out.replace("\t", "").replace(",", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_says_where_it_belongs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    first, *script = capsys.readouterr().out.splitlines()
    assert first.startswith("# ") and shell in first
    if interpreter := shutil.which(shell):
        subprocess.run([interpreter, "-n"], input="\n".join(script), text=True, check=True)


def test_a_shell_that_cannot_complete_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert main(["completion"]) == 2
    assert capsys.readouterr().err.startswith("error: SHELL = 'tcsh' is none that can complete; name one: ")
