"""The official client of OpenAI on every route of a server that runs as users start it, streamed and whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from gpt.model.generation import generate_text
from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from tests.conftest import write_params
from tests.serving.conftest import CONTEXT, LABELS_OF
from tests.serving.live import Server, running_server

KEY = "a-key-of-tests"
ASKED: Any = [{"role": "user", "content": "who is the queen?"}]


@pytest.fixture(scope="module")
def server(
    chat_folder: Path, base_folder: Path, classifier_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    project = tmp_path_factory.mktemp("a project")
    write_params(project, {})
    (project / "keys.txt").write_text(f"# of the tests\n{KEY}\n")
    models = (chat_folder, base_folder, classifier_folder)
    with running_server(project, models, "--api-key-file", "keys.txt") as server:
        yield server


@pytest.fixture
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0)


def test_the_models_are_listed_with_what_is_known_of_them(client: OpenAI) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == ["chat", "base", "classifier"]
    extra = [model.model_extra or {} for model in models]
    assert [each["kind"] for each in extra] == ["chat", "base", "classifier"]
    assert [each["default"] for each in extra] == [True, False, False]
    assert {each["context_length"] for each in extra} == {CONTEXT}
    assert extra[2]["labels"] == LABELS_OF
    assert all(["Model", model.id] in each["facts"] for model, each in zip(models, extra, strict=True))
    assert client.models.retrieve("base").id == "base"
    with pytest.raises(openai.NotFoundError, match="is not served"):
        client.models.retrieve("another")


def test_a_completion_is_what_gpt_generate_writes(client: OpenAI, base_folder: Path) -> None:
    model, encoding = load_model(base_folder)
    sampling = Sampling(30, temperature=0.7, top_k=20, top_p=0.9, stop=("xyz",), seed=5)
    wanted = "".join(generate_text(model, encoding, "To be", sampling))
    asked: dict[str, Any] = {
        **{"model": "base", "prompt": "To be", "max_tokens": 30, "temperature": 0.7, "top_p": 0.9},
        **{"stop": "xyz", "seed": 5, "extra_body": {"top_k": 20}},
    }
    whole = client.completions.create(**asked)
    assert whole.choices[0].text == wanted
    assert whole.model == "base"
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == wanted
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_of_many_prompts_choices_and_tokens(client: OpenAI, base_folder: Path) -> None:
    _, encoding = load_model(base_folder)
    one = [
        client.completions.create(model="base", prompt=text, seed=seed, max_tokens=9)
        for text in ("To", "is")
        for seed in (3, 4)
    ]
    many = client.completions.create(model="base", prompt=["To", "is"], n=2, seed=3, max_tokens=9)
    assert [choice.text for choice in many.choices] == [each.choices[0].text for each in one]
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    texts = [""] * 4
    for chunk in client.completions.create(model="base", prompt=["To", "is"], n=2, seed=3, max_tokens=9, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in many.choices]
    ids = [encoding.eot_token, *encoding.encode_ordinary("To")]
    assert client.completions.create(model="base", prompt=ids, seed=3, max_tokens=9).choices[0].text == texts[0]


def test_a_prompt_that_is_too_long_is_refused_or_cut(client: OpenAI) -> None:
    long = "To be, or not to be: " * 40
    with pytest.raises(openai.BadRequestError, match="context of 64 must hold an answer too") as refused:
        client.completions.create(model="base", prompt=long, max_tokens=10)
    assert refused.value.code == "context_length_exceeded"
    cut = client.completions.create(model="base", prompt=long, max_tokens=10, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage and cut.usage.prompt_tokens == CONTEXT - 10
    cut = client.completions.create(model="base", prompt=long, max_tokens=10, extra_body={"truncate_prompt_tokens": 20})
    assert cut.usage and cut.usage.prompt_tokens == 20


def test_likelihoods_of_a_completion(client: OpenAI) -> None:
    reply = client.completions.create(model="base", prompt="To be", max_tokens=20, temperature=0, logprobs=3)
    told = reply.choices[0].logprobs
    assert told and told.tokens and told.token_logprobs and told.top_logprobs and told.text_offset is not None
    assert all(
        abs(max(top.values()) - logprob) < 1e-6
        for top, logprob in zip(told.top_logprobs, told.token_logprobs, strict=True)
    )
    joined = bytes(byte for token in (told.model_extra or {})["bytes"] for byte in token)
    assert joined.decode("utf-8", "replace") == reply.choices[0].text


def test_a_chat_whole_and_streamed_with_likelihoods(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "chat",
        "messages": ASKED,
        "seed": 2,
        "max_completion_tokens": 12,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = client.chat.completions.create(**asked)
    (choice,) = whole.choices
    assert choice.message.role == "assistant"
    assert choice.logprobs and choice.logprobs.content
    assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(each.delta.content or "" for each in choices) == choice.message.content
    streamed = [token for each in choices if each.logprobs for token in each.logprobs.content or ()]
    assert [token.token for token in streamed] == [token.token for token in choice.logprobs.content]
    assert [each.finish_reason for each in choices if each.finish_reason] == [choice.finish_reason]
    assert chunks[-1].usage == whole.usage


def test_of_a_conversation_that_is_too_long_the_oldest_turns_go_and_the_answer_says_so(client: OpenAI) -> None:
    system: Any = {"role": "system", "content": "be brief"}
    turns: Any = [
        {"role": role, "content": f"{role} {number}"} for number in range(12) for role in ("user", "assistant")
    ]
    last: Any = {"role": "user", "content": "and now?"}
    short = client.chat.completions.create(model="chat", messages=[system, *turns[:2], last], max_tokens=4)
    assert (short.model_extra or {})["dropped_messages"] == 0
    long = client.chat.completions.create(model="chat", messages=[system, *turns, last], max_tokens=4)
    dropped = (long.model_extra or {})["dropped_messages"]
    assert 0 < dropped < 24
    assert dropped % 2 == 0, "what is left begins with a user's turn"
    same = client.chat.completions.create(model="chat", messages=[system, *turns[dropped:], last], max_tokens=4)
    assert (same.model_extra or {})["dropped_messages"] == 0
    assert same.usage and long.usage and same.usage.prompt_tokens == long.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="must hold an answer too"):
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "word " * 100}])


def test_a_classifier_answers_with_probabilities(client: OpenAI) -> None:
    reply = client.post("/classify", cast_to=dict, body={"model": "classifier", "input": ["win a prize", "see you"]})
    assert isinstance(reply, dict)
    assert reply["labels"] == LABELS_OF
    assert [each["index"] for each in reply["data"]] == [0, 1]
    for each in reply["data"]:
        assert sum(each["probs"]) == pytest.approx(1, abs=1e-5)
        assert each["label"] == LABELS_OF[max(range(2), key=each["probs"].__getitem__)]
    with pytest.raises(openai.BadRequestError, match="must hold an answer too"):
        client.post("/classify", cast_to=dict, body={"model": "classifier", "input": "word " * 100})


@pytest.mark.parametrize(
    ("model", "route", "said"),
    [
        ("base", "chat/completions", "has not learned to answer"),
        ("classifier", "chat/completions", "is a classifier"),
        ("classifier", "completions", "is a classifier"),
        ("chat", "classify", "classifies nothing"),
    ],
)
def test_a_model_that_cannot_do_it_says_what_it_can(client: OpenAI, model: str, route: str, said: str) -> None:
    bodies = {
        "chat/completions": {"messages": ASKED},
        "completions": {"prompt": "a"},
        "classify": {"input": "a"},
    }
    with pytest.raises(openai.BadRequestError, match=said):
        client.post(f"/{route}", cast_to=dict, body={"model": model, **bodies[route]})


def test_without_the_key_nothing_is_answered(server: Server) -> None:
    for key in ("another-key", KEY[:-1], KEY + "x"):
        with pytest.raises(openai.AuthenticationError):
            OpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=0).models.list()
