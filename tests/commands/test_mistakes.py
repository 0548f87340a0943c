"""What newcomers type wrong: one line that says what is wrong and what to do, exit code 2, nothing else, nothing left behind."""

import logging
import shlex
from pathlib import Path

import pytest

from gpt.commands.line.mistakes import _MEANT
from gpt.commands.main import COMMANDS, main

MORE = "; `{} --help` says more"
MISTAKES = {
    "pretrian": "no command 'pretrian'; did you mean `gpt pretrain`? `gpt --help` lists all",
    "gen 'To be'": "no command 'gen'; did you mean `gpt generate`? `gpt --help` lists all",
    "train": "no command 'train'; did you mean `gpt pretrain`? `gpt --help` lists all",
    "chat": "no command 'chat'; did you mean `gpt generate --interactive`? `gpt --help` lists all",
    "help": "no command 'help'; did you mean `gpt --help`? `gpt --help` lists all",
    "diff": "no command 'diff' in `gpt`; did you mean `gpt data diff`?",
    "tokens shwo": "no command 'shwo'; did you mean `gpt tokens show`? `gpt tokens --help` lists all",
    "frobnicate": "no command 'frobnicate'; `gpt --help` lists all",
    "--verison": "--verison: no option of `gpt`; did you mean --version?",
    "generate hi --temprature 0": "--temprature: no option of `gpt generate`; did you mean --temperature?",
    "generate hi --max 5": "--max: no option of `gpt generate`; did you mean --max-new-tokens?",
    "doctor --json": "--json: no option of `gpt doctor`; `gpt doctor --help` lists them",
    "generate": """PROMPT is missing, as in: gpt generate "To be, or\"""" + MORE.format("gpt generate"),
    "import": "DIR is missing, as in: gpt import ~/Downloads/gpt2" + MORE.format("gpt import"),
    "generate hi --temperature": "--temperature: needs a value (X)" + MORE.format("gpt generate"),
    "generate hi --temperature=-1": "--temperature: must be a number of at least 0, not -1",
    "generate hi --temperature warm": "--temperature: must be a number of at least 0, not 'warm'",
    "generate hi --max-new-tokens 1.5": "--max-new-tokens: must be a whole number of at least 1, not '1.5'",
    "generate hi --stop ''": "--stop: must not be empty",
    "generate hi --interactive=yes": "--interactive: takes no value" + MORE.format("gpt generate"),
    "generate -5 degrees": "-5: no option of `gpt generate`; a PROMPT that begins with - follows --;"
    " `gpt generate --help` lists them",
    "tokens show --step -1": "--step: must be a whole number of at least 0 and at most 1000000000000, not -1",
    "tokens show --split tets": "--split: must be train or validation or test, not 'tets'; did you mean test?",
    "rollback two": "VERSION: must be a whole number of at least 1, not 'two'",
    "promote now": "`gpt promote` takes no argument, and 'now' is too much" + MORE.format("gpt promote"),
    "import my models": "`gpt import` takes one argument, and 'models' is too much; quote what holds spaces"
    + MORE.format("gpt import"),
    "prepare": "params.yaml: not found in {here} or above; run this in a project's folder, or make one: gpt init DIR",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(typed)) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {MISTAKES[typed].replace('{here}', str(tmp_path))}\n"
    assert not said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("typed", _MEANT)
def test_what_other_tools_call_a_command_leads_to_one_that_is_there(
    typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([typed]) == 2
    assert f"did you mean `gpt {_MEANT[typed]}`?" in capsys.readouterr().err
    meant = shlex.split(_MEANT[typed])
    assert meant[0] in {*COMMANDS.commands, "--help", "--version"}


@pytest.mark.parametrize("arguments", [[], ["-v"], ["tokens"]])
def test_a_group_alone_shows_its_commands_and_fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("Usage: gpt ")
    assert not said.out


def test_verbose_says_what_runs_and_twice_where_an_error_comes_from_and_ends_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare"]) == 2
    assert not caplog.records
    assert main(["-v", "prepare"]) == 2
    assert caplog.messages == [f"gpt prepare in {tmp_path}"]
    caplog.clear()
    assert main(["prepare", "-vv"]) == 2
    assert caplog.messages == [f"gpt prepare in {tmp_path}", "where the error comes from:"]
    assert "load_params" in caplog.text
    assert logging.getLogger("gpt").level == logging.NOTSET


def test_version_names_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert [word for word in capsys.readouterr().out.split() if word.isalpha()] == ["gpt", "Python", "torch"]
