"""Compared with lm-eval's own model of Hugging Face: the same weights and texts must give the same numbers."""

import os
import random
from typing import Any, cast

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from gpt.errors import UserError
from gpt.evaluation.benchmarks import continuations
from gpt.evaluation.benchmarks import lm as lm_module
from gpt.evaluation.benchmarks.lm import GPTLM
from gpt.model.convert.huggingface import export_huggingface
from gpt.model.storage import load_model
from gpt.processes.agreement import Share
from tests.evaluation.benchmarks.made_up import make_model, text
from tests.processes.together import together

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[GPTLM, Any]:
    folder = tmp_path_factory.mktemp("models")
    ours = make_model(folder, block_size=64)
    export_huggingface(ours, folder / "exported")
    return GPTLM(*load_model(ours)), hugging_face(str(folder / "exported"))


def hugging_face(model: Any, **options: Any) -> Any:
    kind = cast("Any", HFLM)  # a decorator hides its arguments from type checkers
    return kind(model, device="cpu", dtype="float32", batch_size=4, **options)


def plain(seed: int, words: int) -> str:
    """A text without what Hugging Face takes for a special token, and we for text."""
    return text(seed, words).replace("<|endoftext|>", "endoftext")


def ask(kind: Any, *arguments: Any) -> Instance:
    return Instance(kind, {}, arguments, 0, ("task", 0, 1))


def test_log_likelihoods_and_greedy_answers_are_those_of_hugging_face(models: tuple[GPTLM, Any]) -> None:
    draw = random.Random(0)
    requests = []
    for seed in range(60):
        context = plain(seed, draw.randint(0, 40)).lstrip()
        context += draw.choice(["", " ", "  ", "\n"]) if context.strip() else ""  # lm-eval fails on white space alone
        requests += [
            ask("loglikelihood", context, " " + plain(seed * 7 + choice, draw.randint(1, 5))) for choice in range(3)
        ]
    ours, theirs = (lm.loglikelihood(requests) for lm in models)
    assert [nats for nats, _ in ours] == pytest.approx([nats for nats, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_a_greedy_answer_is_known_as_one_by_both(models: tuple[GPTLM, Any]) -> None:
    ours, theirs = models
    (answer,) = ours.generate_until([ask("generate_until", plain(5, 6), {"until": [], "max_gen_toks": 4})])
    request = [ask("loglikelihood", plain(5, 6), answer)]
    assert ours.loglikelihood(request)[0][1] == theirs.loglikelihood(request)[0][1]


def test_rolling_log_likelihoods_are_those_of_hugging_face(models: tuple[GPTLM, Any]) -> None:
    requests = [ask("loglikelihood_rolling", plain(seed, words)) for seed, words in enumerate((1, 10, 40, 200))]
    # Otherwise theirs scores the first of two <|endoftext|>, too.
    alone = hugging_face(models[1].model, tokenizer=models[1].tokenizer, add_bos_token=False)
    ours, theirs = (lm.loglikelihood_rolling(requests) for lm in (models[0], alone))
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert models[0].loglikelihood_rolling([ask("loglikelihood_rolling", "")]) == [0]


def test_generated_texts_are_those_of_hugging_face(models: tuple[GPTLM, Any]) -> None:
    settings: list[dict[str, Any]] = [
        {"until": ["\n", "queen"], "max_gen_toks": 20, "do_sample": False},
        {"until": ["e"], "max_gen_toks": 30},
        {"until": [], "max_gen_toks": 5, "temperature": 0.0},
    ]
    requests = [ask("generate_until", plain(seed, seed % 60 + 1), settings[seed % 3]) for seed in range(24)]
    ours, theirs = (lm.generate_until(requests) for lm in models)
    assert ours == theirs
    assert any(ours)


def test_sampling_repeats_itself_and_what_is_not_known_is_refused(models: tuple[GPTLM, Any]) -> None:
    ours = models[0]
    sampled = {"until": [], "max_gen_toks": 200, "do_sample": True, "temperature": 1.0, "top_k": 5}
    requests = [ask("generate_until", plain(1, 5), sampled), ask("generate_until", "", sampled)]
    assert ours.generate_until(requests) == ours.generate_until(requests)
    with pytest.raises(UserError, match="num_beams is not known"):
        ours.generate_until([ask("generate_until", "a", {"until": [], "num_beams": 4})])


def test_processes_that_share_requests_each_get_the_very_answers_of_one(
    models: tuple[GPTLM, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_module, "_ROWS", 3)
    monkeypatch.setattr(continuations, "_TOKENS_PER_BATCH", 100)
    whole = models[0]
    sampled: dict[str, Any] = {"until": ["queen"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
    greedy: dict[str, Any] = {"until": [], "max_gen_toks": 4}
    asked = {
        "loglikelihood": [ask("loglikelihood", plain(seed, seed + 1), " " + plain(seed + 50, 3)) for seed in range(10)],
        "loglikelihood_rolling": [ask("loglikelihood_rolling", plain(seed, 30 * seed)) for seed in range(1, 4)],
        "generate_until": [
            ask("generate_until", plain(seed, seed + 1), sampled if seed % 2 else greedy) for seed in range(11)
        ],
    }
    for kind, requests in asked.items():
        expected = getattr(whole, kind)(requests)

        def answer(share: Share, kind: str = kind, requests: list[Instance] = requests) -> list[Any]:
            return getattr(GPTLM(whole._model, whole._encoding, share=share), kind)(requests)

        assert together(3, answer) == [expected] * 3, kind
