import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets.exceptions import DatasetGenerationError

from gpt.errors import UserError
from gpt.evaluation.benchmarks import answers
from gpt.evaluation.benchmarks.continuations import encode_pair, score_continuations
from gpt.evaluation.benchmarks.figures import centred_score, summarise, tabulate
from gpt.evaluation.benchmarks.lm import GPTLM
from gpt.evaluation.benchmarks.tasks import _told_if_missing, run_benchmarks
from gpt.model.storage import load_model
from gpt.model.transformer import GPTModel
from gpt.params.project import load_params
from gpt.processes.agreement import Share
from tests import ROOT
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


def test_untrained_weights_whose_head_is_zero_score_without_a_pass_what_passes_give(lm: GPTLM) -> None:
    model = GPTModel(replace(lm._model.config, tie_embeddings=False, init="zero"))
    found = answers._untrained(load_params(ROOT / "params.yaml"), model, lm._encoding, MADE, None, Share())
    model.init_weights(0)
    for each in MADE:
        right = each.with_right_choices()
        nats = score_continuations(model, [encode_pair(lm._encoding, *request) for request in right.requests()]).nats
        size = sum(len(item.choices[0].continuation.encode()) for item in right.items)
        assert found[each.name]["bits_per_byte"] == pytest.approx(nats.sum() / math.log(2) / size, rel=1e-6)
        if each.name == "last_word":
            assert math.log(found[each.name]["perplexity"]) == pytest.approx(nats.mean(), rel=1e-6)
    assert "perplexity" not in found["quiz"]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'copa' on the Hub"),
        ImportError("Please install sympy"),
        ValueError("BuilderConfig 'x' not found"),
        RuntimeError("Dataset scripts are no longer supported"),
        DatasetGenerationError("An error occurred\nwhile generating the dataset"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_libraries_say_of_items_that_do_not_come_is_one_line(error: Exception) -> None:
    message = r"params\.yaml: evaluate\.tasks: lm-eval could not load copa \("
    with pytest.raises(UserError, match=message) as raised, _told_if_missing("copa"):
        raise error
    assert "\n" not in str(raised.value)
    assert "take it out" in str(raised.value)


def test_a_bug_while_items_are_brought_stays_one() -> None:
    with pytest.raises(AttributeError), _told_if_missing("copa"):
        raise AttributeError("task")


@pytest.mark.slow  # lm-eval reads all its task files first
def test_a_task_that_lm_eval_does_not_know_or_cannot_bring_is_one_error_and_asked_of_the_network_after_our_own(
    tmp_path: Path,
) -> None:
    """The library is told where the network is: at a port of this machine at which nobody listens."""
    code = f"""
from pathlib import Path
from gpt.errors import UserError
from gpt.evaluation.benchmarks.tasks import quiet_lm_eval, run_benchmarks, run_tasks
with quiet_lm_eval():
    from gpt.evaluation.benchmarks.lm import GPTLM
from gpt.model.storage import load_model
from gpt.params.project import load_params
from tests.evaluation.benchmarks.made_up import benchmark, make_model

lm = GPTLM(*load_model(make_model(Path("model"))))
run_benchmarks(lm, [benchmark("quiz", 3, 2)])
settings = load_params(Path({str(ROOT / "params.yaml")!r})).evaluate
assert run_tasks(lm, settings) == {{}}
for name in ("no_such_task", "copa"):
    try:
        run_tasks(lm, settings.model_copy(update={{"tasks": (name,)}}))
    except UserError as error:
        print(error)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    unknown, missing = done.stdout.splitlines()
    assert "evaluate.tasks: no_such_task is no task of lm-eval" in unknown
    assert "evaluate.tasks: lm-eval could not load copa (" in missing
    assert "offline" not in missing.lower(), "the network is asked"
    assert "Traceback" not in done.stderr
