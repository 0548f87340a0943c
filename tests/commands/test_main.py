"""The command line itself: what it loads, and what its parts tell a user."""

import json
import os
import subprocess
import sys

import pytest

from gpt.commands.arguments import at_least, not_empty
from gpt.commands.checks import training
from gpt.commands.main import build_parser
from tests.conftest import ROOT

HEAVY = {"accelerate", "datatrove", "dvc", "matplotlib", "mlflow", "numpy", "pandas", "prefect", "pydantic", "torch"}


def test_help_loads_nothing_that_is_slow() -> None:
    code = """
import json, sys
from gpt.commands.main import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    *text, loaded = output.stdout.splitlines()
    assert text[0].startswith("usage: gpt ")
    assert not HEAVY & set(json.loads(loaded))


def test_every_command_of_the_contract_is_there_and_says_what_it_does() -> None:
    text = build_parser().format_help()
    for name in (
        *("fetch", "prepare", "tokenizer", "tokenize", "tokens", "data", "pretrain", "checkpoints", "sync", "evaluate"),
        *("generate", "register", "promote", "rollback", "lineage", "reproduce", "import", "export", "doctor"),
    ):
        assert f"    {name} " in text or f"    {name}\n" in text


@pytest.mark.parametrize("text", ["0", "11", "nan", "inf"])
def test_a_number_out_of_range_is_refused_with_its_limits(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    option = parser.add_argument("--number", type=at_least(float, 1, 10))
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--number", text, "doctor"])
    assert ended.value.code == 2
    assert f"must be float of at least 1 and at most 10, not {text}" in capsys.readouterr().err
    assert option.dest == "number"


@pytest.mark.parametrize(
    "arguments",
    [
        ["lineage", "@candidate", "redis://:s3cr3t@h"],
        ["fetch", "redis://:s3cr3t@h"],
        ["redis://:s3cr3t@h"],
        ["generate", "Hello", "--seed", "redis://:s3cr3t@h"],
    ],
)
def test_a_secret_that_was_typed_in_the_wrong_place_is_not_repeated(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "redis://:***@h" in said.err
    assert "s3cr3t" not in said.out + said.err


def test_an_argument_that_is_no_number_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["generate", "Hello", "--max-new-tokens", "many"])
    assert "argument --max-new-tokens: invalid int value: 'many'" in capsys.readouterr().err
    assert not_empty("a") == "a"


def test_doctor_names_what_the_environment_asks_and_params_yaml_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert [(kind, subject) for kind, subject, _ in training.environment()] == [("missing", "environment")]
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    assert not list(training.environment())
