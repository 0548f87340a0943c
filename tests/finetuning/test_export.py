"""A model that has learned to answer, in transformers: the same ids, the same answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.finetuning.data.templates import TOKENS, ChatTemplate, load_template
from gpt.finetuning.finetune import finetune
from gpt.finetuning.judging.answers import answer
from gpt.finetuning.places import Places
from gpt.model.convert.huggingface import export_huggingface
from gpt.model.storage import load_model
from gpt.params.project import load_params
from tests.finetuning.conftest import NAME

TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "who is 3?"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": " who\n\nis 3? "}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "naïve b"},
        {"role": "user", "content": "c"},
    ],
    [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": "é"}}}],
        },
        {"role": "tool", "content": "3"},
    ],
]


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("cut", ["tokens", "characters"])
def test_transformers_renders_the_same_ids_and_gives_the_same_answers(
    make_recipe: Callable[..., Path], tmp_path: Path, name: str, cut: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task = {"kind": "instruct", "template": name, "cut": cut, "train_on": "all_answers"}
    make_recipe("instruct", task=task, train={"epochs": 6.0, "learning_rate": 0.01})
    finetune(NAME, load_params())
    places = Places(NAME)
    export_huggingface(places.model, tmp_path / "theirs")
    model, encoding = load_model(places.model)
    template = load_template(places.model / "tokenizer", encoding)
    assert template is not None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    for messages in TALKS:
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert theirs == template.encode_prompt(messages)
    same_ids(template, tokenizer)
    whole = [*TALKS[2], {"role": "assistant", "content": "d"}]
    found = tokenizer.apply_chat_template(whole, return_dict=True, return_assistant_tokens_mask=True)
    ours = template.encode(whole, "all_answers")
    assert found["input_ids"] == ours.ids.tolist()
    assert found["assistant_masks"] == ours.mask.astype(int).tolist()
    network: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    (said,) = answer(model, template, [TALKS[0]], 12)
    ids = torch.tensor([template.encode_prompt(TALKS[0])])
    written = network.generate(ids, max_new_tokens=12)[0, ids.shape[1] :].tolist()
    assert tokenizer.decode([token for token in written if token != template.end]) == said.text
    assert (template.end in written) == said.ended


def same_ids(template: ChatTemplate, tokenizer: Any) -> None:
    """Any text that spells no special token has the ids that transformers gives it."""

    @given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=3))
    @settings(max_examples=40, deadline=None)
    def compare(texts: list[str]) -> None:
        messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert theirs == template.encode_prompt(messages)

    compare()
