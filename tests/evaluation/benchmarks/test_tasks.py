import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt.errors import UserError
from gpt.evaluation.benchmarks.continuations import encode_pair, score_continuations
from gpt.evaluation.benchmarks.figures import centred_score, summarise, tabulate
from gpt.evaluation.benchmarks.lm import GPTLM
from gpt.evaluation.benchmarks.tasks import run_benchmarks, run_tasks
from gpt.model.storage import load_model
from gpt.params.project import load_params
from tests.conftest import ROOT
from tests.evaluation.benchmarks.made_up import benchmark, make_model

MADE = [benchmark("quiz", 20, 4), benchmark("last_word", 15, 1), benchmark("pair", 10, 2)]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> GPTLM:
    return GPTLM(*load_model(make_model(tmp_path_factory.mktemp("model"))))


def test_through_lm_eval_the_items_score_what_they_score_directly_without_network_or_noise(
    lm: GPTLM, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = dict(os.environ)
    through = run_benchmarks(lm, MADE)
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")
    pairs = [encode_pair(lm._encoding, *request) for each in MADE for request in each.requests()]
    nats, misses = score_continuations(lm._model, pairs)
    direct = tabulate(MADE, nats, misses == 0)
    assert np.concatenate(through.nats) == pytest.approx(np.concatenate(direct.nats), abs=1e-9)
    for name in ("benchmark", "id", "clean", "answer", "chance", "greedy"):
        assert np.array_equal(getattr(through, name), getattr(direct, name)), name


def test_lm_eval_is_imported_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import gpt.evaluation.benchmarks.lm, gpt.evaluation.benchmarks.item_task"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout == ""


def test_figures_are_those_of_their_definitions() -> None:
    one, two = benchmark("quiz", 4, 2), benchmark("last_word", 2, 1)
    # Choices of quiz: the first is likeliest always; of last_word one answer is written greedily.
    nats = np.array([1.0, 2.0] * 4 + [3.0, 5.0])
    greedy = np.array([False] * 8 + [True, False])
    items = tabulate([one, two], nats, greedy)
    summary = summarise(items, ["quiz", "last_word"])
    right = [item.answer == 0 for item in one.items]
    accuracy = sum(right) / 4
    assert summary["quiz"]["accuracy"] == accuracy
    assert summary["quiz"]["standard_error"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 3))
    assert (summary["quiz"]["chance"], summary["last_word"]["chance"]) == (0.5, 0)
    assert summary["quiz"]["perplexity"] is None
    assert summary["last_word"]["perplexity"] == pytest.approx(math.exp(4))
    assert summary["last_word"]["accuracy"] == 0.5
    sizes = [len(item.choices[0].continuation.encode()) for item in two.items]
    assert summary["last_word"]["bits_per_byte"] == pytest.approx(8 / math.log(2) / sum(sizes))
    clean = [is_right for is_right, is_clean in zip(right, one.clean, strict=True) if is_clean]
    assert summary["quiz"]["clean_items"] == len(clean)
    assert summary["quiz"]["clean"]["accuracy"] == sum(clean) / len(clean)
    assert centred_score(summary) == pytest.approx(((accuracy - 0.5) / 0.5 + 0.5) / 2)
    assert centred_score({}) is None


@pytest.mark.slow  # lm-eval reads all its task files first
def test_a_task_that_lm_eval_does_not_know_or_cannot_bring_is_one_error(lm: GPTLM) -> None:
    settings = load_params(ROOT / "params.yaml").evaluate
    assert run_tasks(lm, settings) == {}
    with pytest.raises(UserError, match=r"evaluate\.tasks: no_such_task is no task of lm-eval"):
        run_tasks(lm, settings.model_copy(update={"tasks": ("no_such_task",)}))
    with pytest.raises(UserError, match=r"evaluate\.tasks: lm-eval could not load copa"):
        run_tasks(lm, settings.model_copy(update={"tasks": ("copa",)}))
