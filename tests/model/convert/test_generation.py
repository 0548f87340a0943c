"""What transformers writes from an exported folder, with nothing but defaults, is what `gpt generate --temperature 0` writes."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from gpt.model.convert.huggingface import export_huggingface
from gpt.model.generation import generate_text, generate_tokens
from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from gpt.registry.overview.card import write_card
from gpt.registry.overview.facts import Facts
from tests.model.convert.test_huggingface import (  # noqa: F401
    DOCUMENTS,
    EXPORTS,
    make_model,
    tokenizers,
    transformers,
)

PROMPTS = ["", "the queen", " ", "42 über-naïve 漢字", "don't I'LL", "<|endoftext|>", "\n\nEnd."]


def theirs_from(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def both(folder: Path, tokenizer: Path, **choices: Any) -> tuple[Any, Any, Any, Any]:
    """Make a model and export it; return ours with its encoding, and transformers' with its tokenizer."""
    make_model(folder / "ours", tokenizer, **choices, block_size=40)
    export_huggingface(folder / "ours", folder / "theirs")
    return *load_model(folder / "ours"), *theirs_from(folder / "theirs")


@pytest.mark.parametrize(("model_type", "choices"), EXPORTS, ids=lambda value: value if isinstance(value, str) else "")
def test_generate_with_defaults_writes_what_we_write(
    tmp_path: Path,
    tokenizers: dict[str, Path],  # noqa: F811
    model_type: str,
    choices: dict[str, Any],
) -> None:
    model, encoding, theirs, tokenizer = both(tmp_path, tokenizers["bpe"], **choices)
    longest = 0
    for prompt in PROMPTS:
        start = [encoding.eot_token, *encoding.encode_ordinary(prompt)]
        given = tokenizer(prompt, return_tensors="pt")
        assert given["input_ids"].tolist() == [start]
        written = theirs.generate(**given)[0]
        count = model.config.block_size - len(start)
        ours: list[int] = []
        for step in generate_tokens(model, [start], Sampling(count, temperature=0)):
            ours.append(step[0])
            if ours[-1] == encoding.eot_token:
                break
        assert written[len(start) :].tolist() == ours, prompt
        text = "".join(generate_text(model, encoding, prompt, Sampling(count, temperature=0)))
        assert tokenizer.decode(written[len(start) :], skip_special_tokens=True) == text
        longest = max(longest, len(ours))
    assert longest > 20


SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.8, "top_k": 50},  # as params.yaml has it
    {"temperature": 1.3, "top_k": 0, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 0, "min_p": 0.05},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.5},
]
_DRAWS = 4000


@pytest.mark.parametrize(
    ("model_type", "choices"),
    [*EXPORTS[:2], *(pytest.param(*each, marks=pytest.mark.slow) for each in EXPORTS[2:])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_token_is_drawn_as_often_as_transformers_would(
    tmp_path: Path,
    tokenizers: dict[str, Path],  # noqa: F811
    model_type: str,
    choices: dict[str, Any],
) -> None:
    model, encoding, theirs, tokenizer = both(tmp_path, tokenizers["bpe"], **choices)
    prompt = "the queen the queen"
    start = [encoding.eot_token, *encoding.encode_ordinary(prompt)]
    for settings in SAMPLINGS:
        written = theirs.generate(
            **tokenizer(prompt, return_tensors="pt"), **settings,
            do_sample=True, max_new_tokens=1, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        expected = torch.softmax(written.scores[0][0].double(), -1) * _DRAWS
        (step,) = generate_tokens(model, [start] * _DRAWS, Sampling(1, **settings, seed=1))
        drawn = torch.bincount(torch.tensor(list(step.values())), minlength=len(expected)).double()
        assert not drawn[expected == 0].any(), settings
        often = expected >= 5
        assert often.sum() > 1, "or there is nothing to compare"
        ours, wanted = ([*each[often].tolist(), float(each[~often].sum())] for each in (drawn, expected))
        assert chisquare(ours[: None if wanted[-1] >= 5 else -1], wanted[: None if wanted[-1] >= 5 else -1],
                         sum_check=False).pvalue > 1e-4, settings  # fmt: skip


def test_a_batch_of_prompts_is_padded_so_that_each_goes_on_alone(
    tmp_path: Path,
    tokenizers: dict[str, Path],  # noqa: F811
) -> None:
    make_model(tmp_path / "ours", tokenizers["bpe"], block_size=40)
    export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    theirs, tokenizer = theirs_from(tmp_path / "theirs")
    batch = theirs.generate(**tokenizer(PROMPTS, return_tensors="pt", padding=True), max_new_tokens=8)
    for prompt, row in zip(PROMPTS, batch, strict=True):
        given = tokenizer(prompt, return_tensors="pt")
        alone = theirs.generate(**given, max_new_tokens=8)[0, given["input_ids"].shape[1] :]
        alone = torch.nn.functional.pad(alone, (0, 8 - len(alone)), value=tokenizer.pad_token_id)
        assert row[-8:].tolist() == alone.tolist()


@pytest.mark.parametrize("kind", ["bpe", "char", "gpt2"])
def test_every_text_begins_as_our_generation_begins_it(
    tmp_path: Path,
    tokenizers: dict[str, Path],  # noqa: F811
    kind: str,
) -> None:
    make_model(tmp_path / "ours", tokenizers[kind])
    export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    _, encoding = load_model(tmp_path / "ours")
    for text in [*PROMPTS, DOCUMENTS[0]]:
        ids = encoding.encode_ordinary(text)
        assert tokenizer(text)["input_ids"] == tokenizer.encode(text) == [encoding.eot_token, *ids]
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    tokenizer.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("the queen")["input_ids"] == tokenizer("the queen")["input_ids"]


def test_the_lines_of_the_model_card_run_in_the_exported_folder(
    tmp_path: Path,
    tokenizers: dict[str, Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_model(tmp_path / "ours", tokenizers["bpe"], block_size=40)
    prompt = 'the "queen"\n42'
    export_huggingface(tmp_path / "ours", tmp_path / "theirs", write_card(Facts("x", samples=((prompt, ""),))))
    (lines,) = re.findall(
        r"```python\n(.*?)```", (tmp_path / "theirs/README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (tmp_path / "lines.py").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "theirs")
    runpy.run_path(str(tmp_path / "lines.py"))
    model, encoding = load_model(tmp_path / "ours")
    count = 40 - len([encoding.eot_token, *encoding.encode_ordinary(prompt)])
    written = "".join(generate_text(model, encoding, prompt, Sampling(count, temperature=0)))
    assert capsys.readouterr().out == f"{prompt}{written}\n"
