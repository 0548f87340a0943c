"""The command line itself: what it loads, and what its parts tell a user."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import dropwhile, takewhile

import click
import pytest

from gpt.commands.checks import training
from gpt.commands.line.arguments import at_least
from gpt.commands.line.command import Command
from gpt.commands.main import COMMANDS, main
from tests import ROOT

HEAVY = {
    "accelerate",
    "datatrove",
    "dvc",
    "matplotlib",
    "mlflow",
    "numpy",
    "pandas",
    "prefect",
    "pydantic",
    "rich",
    "torch",
}


def commands(group: click.Group = COMMANDS) -> Iterator[Command]:
    for member in group.commands.values():
        if isinstance(member, click.Group):
            yield from commands(member)
        else:
            assert isinstance(member, Command), f"{member.name}: `@command` of gpt.commands.line makes commands"
            yield member


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line in which `gpt` refuses arguments."""
    assert main(list(arguments)) == 2
    output, errors = capsys.readouterr()
    (line,) = errors.splitlines()
    assert not output
    return line


def test_help_loads_nothing_that_is_slow() -> None:
    code = """
import json, sys
from gpt.commands.main import main
assert main(["--help"]) == 0
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    *text, loaded = output.stdout.splitlines()
    assert text[0].startswith("Usage: gpt ")
    assert not HEAVY & set(json.loads(loaded))


def test_usage_has_in_brackets_what_may_be_left_out() -> None:
    for member in commands():
        usage = member.get_usage(click.Context(member, info_name=member.name, terminal_width=200)).split()
        for argument in (each for each in member.params if isinstance(each, click.Argument)):
            name = argument.make_metavar(click.Context(member)).strip("[]").split()[0]
            assert argument.required == (name in usage), f"{member.name}: {name} in {usage}"


def test_every_command_of_the_contract_is_there_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    text = capsys.readouterr().out
    for name in (
        *("fetch", "prepare", "tokenizer", "tokenize", "tokens", "data", "pretrain", "checkpoints", "sync", "evaluate"),
        *("generate", "register", "promote", "rollback", "lineage", "reproduce", "import", "export", "doctor"),
    ):
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 3


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_every_help_ends_with_examples_and_each_is_understood(
    command: Command,
) -> None:
    help_text = command.get_help(click.Context(command, info_name=f"gpt {command.name}"))
    assert help_text.split("Examples:\n")[1].splitlines() == [f"  {example}" for example in command.examples]
    for example in command.examples:
        words = list(takewhile(lambda word: word[:1] not in "<>", shlex.split(example, comments=True)))
        if words[0] == "gpt":
            understood(words[1:])
    assert any(example.startswith("gpt ") for example in command.examples)


def understood(words: list[str]) -> None:
    """Parse a command line as `gpt` does, and run nothing."""
    with COMMANDS.make_context("gpt", words) as context:
        group: click.Group = COMMANDS
        rest = list(dropwhile(lambda word: word.startswith("-"), words))
        while True:
            _, member, rest = group.resolve_command(context, rest)
            assert member is not None
            if not isinstance(member, click.Group):
                member.make_context(member.name, rest, parent=context)
                return
            group = member


@pytest.mark.parametrize("text", ["0", "11", "nan", "inf"])
def test_a_number_out_of_range_is_refused_with_its_limits(text: str) -> None:
    number = at_least(float, 1, 10)
    with pytest.raises(click.BadParameter) as refused:
        number.convert(text, None, None)
    assert refused.value.message == f"must be a number of at least 1 and at most 10, not {text}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["lineage", "@candidate", "redis://:s3cr3t@h"],
        ["fetch", "redis://:s3cr3t@h"],
        ["redis://:s3cr3t@h"],
        ["generate", "Hello", "--seed", "redis://:s3cr3t@h"],
        ["generate", "Hello", "--redis://:s3cr3t@h"],
    ],
)
def test_a_secret_that_was_typed_in_the_wrong_place_is_not_repeated(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "redis://:***@h" in said.err
    assert "s3cr3t" not in said.out + said.err


def test_doctor_names_what_the_environment_asks_and_params_yaml_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert [(kind, subject) for kind, subject, _ in training.environment()] == [("missing", "environment")]
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    assert not list(training.environment())
