from collections.abc import Callable
from pathlib import Path

import pytest

from gpt.commands.main import main
from tests.finetuning.conftest import NAME


def test_the_examples_of_a_step_are_shown_with_what_has_a_loss(
    make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_recipe("instruct")
    assert main(["tokens", "show", "--finetune", NAME, "--sequences", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("train: ") and lines[1].endswith("tokens with a loss are ⟦marked⟧")
    assert lines[3].startswith("step 0, 1 of 8, 1 of ") and lines[3].endswith(" with a loss")
    text = lines[4].replace("│", "")
    assert text.startswith("<|endoftext|><|user|>who is ")
    assert text.count("⟦I am ") == text.count("<|end|>⟧") == 1
    assert "<|assistant|>⟦" in text, "the role of who answers has none"


def test_with_ids_each_token_has_a_line(make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    make_recipe("preference")
    assert main(["tokens", "show", "--finetune", NAME, "--sequences", "1", "--step", "2", "--ids"]) == 0
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line.startswith("step 2, ")]
    assert [", chosen:" in line or ", rejected:" in line for line in headings] == [True, True]
    assert sum(line.endswith("⟦<|end|>⟧") for line in lines) == 2


def test_a_class_is_said(make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    make_recipe("classify")
    assert main(["tokens", "show", "--finetune", NAME, "--sequences", "8"]) == 0
    said = capsys.readouterr().out
    assert ", of class glad: " in said and ", of class sad: " in said
    assert main(["tokens", "show", "--finetune", NAME, "--split", "test"]) == 2
    assert "error: --split: of a recipe the training examples are shown" in capsys.readouterr().err
