"""How often training will see each source is told before its first step, and too often is an error before any."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gpt import paths
from gpt.commands.main import main
from gpt.params.project import load_params
from gpt.tokens.shards import TokenReader
from gpt.training.checkpoints.fingerprint import fingerprint

WHOLE = {"from_step": 0, "shares": {"made-up": 1.0}}
WEIGHTS = paths.BASE_MODEL / "model.safetensors"


def test_epochs_are_told_and_too_many_refused_before_the_first_step(
    make_project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_project(train={"max_epochs": 0.1, "mixture": [WHOLE]})
    tokens = TokenReader(paths.TOKENS, "train").tokens
    assert main(["pretrain"]) == 2
    said = capsys.readouterr()
    assert f"  made-up  {tokens:,}" in said.out
    assert "params.yaml: train.max_epochs = 0.1: source made-up has" in said.err
    assert not WEIGHTS.exists() and not list(Path("checkpoints").glob("*/step_*"))
    assert "step 1" not in said.err


def test_a_phase_after_the_last_step_and_a_limit_that_is_kept_change_nothing(
    make_project: Callable[..., Path],
) -> None:
    ids, weights = [], []
    later = {"from_step": 8, "shares": {"made-up": 0.9995}}
    for name, train in (("one", {"mixture": [WHOLE]}), ("more", {"mixture": [WHOLE, later], "max_epochs": 99.0})):
        make_project(name, train={"max_steps": 8} | train)
        ids.append(fingerprint(load_params()).id)
        assert main(["pretrain"]) == 0
        weights.append(load_file(WEIGHTS))
    assert ids[0] == ids[1]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    make_project("other", train={"max_steps": 9, "mixture": [WHOLE, later]})
    with_phase = fingerprint(load_params()).id
    make_project("without", train={"max_steps": 9, "mixture": [WHOLE]})
    assert fingerprint(load_params()).id != with_phase, "it begins before the end of this run"
