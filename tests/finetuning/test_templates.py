import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.finetuning.data.templates import TOKENS, ChatTemplate, template_source
from gpt.params.finetuning import TrainOn
from gpt.tokens.tokenizer import extend_tokenizer
from tests import ROOT

CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


EVERYTHING = "<|user|> a <|end|> <|assistant|> b <|end|> <|user|> c <|end|> <|assistant|> d <|end|>"
# Conversations, and of each the tokens that have a loss, written down by hand: the answers and their ends.
TEN: list[tuple[list[dict[str, Any]], list[str]]] = [
    ([user("a"), assistant("b")], ["b", "<|end|>"]),
    ([user("a"), assistant("")], ["<|end|>"]),
    ([user(""), assistant("xy")], ["x", "y", "<|end|>"]),
    ([{"role": "system", "content": "s"}, user("a"), assistant("b")], ["b", "<|end|>"]),
    ([user("a"), assistant("b"), user("c"), assistant("d")], ["b", "<|end|>", "d", "<|end|>"]),
    ([user("a"), assistant("b"), user("c")], ["b", "<|end|>"]),
    ([assistant("b"), user("c"), assistant("d")], ["b", "<|end|>", "d", "<|end|>"]),
    ([user("<|end|>"), assistant("b")], ["b", "<|end|>"]),
    ([user("a"), assistant("<|end|>")], [*"<|end|>", "<|end|>"]),
    (
        [user("a"), assistant("b", tool_calls=[CALL]), {"role": "tool", "content": "3"}, assistant("d")],
        ["b", "<|call|>", *'{"name": "f", "arguments": {"a": 1}}', "<|end|>", "d", "<|end|>"],
    ),
]


@pytest.fixture(scope="module")
def characters(prepared_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ChatTemplate]:
    """Return a function that gives a template over a tokenizer whose tokens are characters."""
    folder = tmp_path_factory.mktemp("tokenizer")
    names = [name for names in TOKENS.values() for name in names]
    encoding = extend_tokenizer(prepared_project / "models/tokenizer", names, folder / "more", by_characters=True)
    return lambda name: ChatTemplate(template_source(name), encoding)


def spelled(template: ChatTemplate, ids: Any) -> list[str]:
    return [template.encoding.decode([token]) for token in ids]


@pytest.mark.parametrize(("messages", "with_loss"), TEN)
def test_answers_and_their_ends_have_a_loss_and_nothing_else(
    characters: Callable[[str], ChatTemplate], messages: list[dict[str, Any]], with_loss: list[str]
) -> None:
    template = characters("turns")
    tokens = template.encode(messages, "all_answers")
    assert spelled(template, tokens.ids[tokens.mask]) == with_loss


@pytest.mark.parametrize(
    ("train_on", "with_loss"),
    [
        ("last_answer", ["d", "<|end|>"]),
        ("all_answers", ["b", "<|end|>", "d", "<|end|>"]),
        ("everything", EVERYTHING.split()),
    ],
)
def test_what_has_a_loss_is_a_choice(
    characters: Callable[[str], ChatTemplate], train_on: TrainOn, with_loss: list[str]
) -> None:
    template = characters("turns")
    tokens = template.encode([user("a"), assistant("b"), user("c"), assistant("d")], train_on)
    assert spelled(template, tokens.ids[tokens.mask]) == with_loss
    assert tokens.ids[0] == template.encoding.eot_token


def test_the_end_of_an_answer_is_no_other_token(characters: Callable[[str], ChatTemplate]) -> None:
    for name, end in (("turns", "<|end|>"), ("chatml", "<|im_end|>")):
        template = characters(name)
        assert template.end == template.encoding.encode_single_token(end) != template.encoding.eot_token


TEXTS = st.text(
    st.sampled_from("ab <|>enduser\nassistantim_\ufdd0\ufdd1\ufdd2") | st.characters(codec="utf-8"), max_size=30
)
MESSAGES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)


@pytest.mark.parametrize("name", TOKENS)
@given(MESSAGES)
@settings(max_examples=60, deadline=None)
def test_no_text_becomes_a_special_token_and_all_of_it_is_there(
    characters: Callable[[str], ChatTemplate], name: str, talk: list[tuple[str, str]]
) -> None:
    template = characters(name)
    special = {template.encoding.encode_single_token(each) for each in template.encoding.special_tokens_set}
    messages = [message for asked, said in talk for message in (user(asked), assistant(said))]
    plain = [message for asked, said in talk for message in (user("x"), assistant("y"))]
    tokens, other = template.encode(messages, "all_answers"), template.encode(plain, "all_answers")
    assert [token for token in tokens.ids if token in special] == [token for token in other.ids if token in special]
    said = template.encoding.decode([token for token in tokens.ids[tokens.mask] if token not in special])
    expected = "".join(text if name == "turns" else text.strip() for _, text in talk)
    assert said == expected


def test_a_prompt_is_what_comes_before_the_answer(characters: Callable[[str], ChatTemplate]) -> None:
    for name in TOKENS:
        template = characters(name)
        messages = [user("who are you?"), assistant("I am")]
        whole, prompt = template.encode(messages, "all_answers"), template.encode_prompt(messages[:1])
        assert whole.ids[: len(prompt)].tolist() == prompt
        assert whole.mask.argmax() == len(prompt)


def test_tools_are_told_with_the_first_message(characters: Callable[[str], ChatTemplate]) -> None:
    template = characters("turns")
    tools = [{"name": "f", "<|end|>": "é"}]
    ids = template.encode([user("a"), assistant("b"), user("c"), assistant("d")], "all_answers", tools).ids.tolist()
    text = template.encoding.decode(ids)
    assert text.startswith(
        f"<|endoftext|><|user|>a<|tools|>{json.dumps(tools, ensure_ascii=False)}<|end|><|assistant|>b"
    )
    assert text.count("<|tools|>") == 1


def test_a_template_that_is_none_is_told_with_its_line(characters: Callable[[str], ChatTemplate]) -> None:
    encoding = characters("turns").encoding
    with pytest.raises(UserError, match=r"no Jinja template \(line 2: "):
        ChatTemplate("a\n{% for", encoding)
    with pytest.raises(UserError, match="does not take this conversation"):
        ChatTemplate("{{ raise_exception('no') }}", encoding).encode([user("a")], "all_answers")
    with pytest.raises(UserError, match="does not take this conversation"):
        ChatTemplate("{{ ''.__class__.__mro__ }}", encoding).encode([user("a")], "all_answers")


def test_committed_templates_are_those_that_recipes_may_name() -> None:
    assert {path.stem for path in (ROOT / "gpt/finetuning/templates").glob("*.jinja")} == set(TOKENS)
