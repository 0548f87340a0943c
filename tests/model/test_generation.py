"""What is written depends on the prompt, the seed and the model: not on neighbours, caches or how bytes fall into tokens."""

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.commands.main import main
from gpt.model.generation import generate_text, generate_texts, generate_tokens
from gpt.model.layers import LayerNorm
from gpt.model.sampling import Sampling
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import load_params
from gpt.params.tokens import Tokenizer
from gpt.tokens.encoding import Encoding
from gpt.tokens.tokenizer import build_tokenizer, load_tokenizer
from tests import ROOT
from tests.model.test_transformer import CHOICES, CONFIG, describe, make, make_large

BLOCK = CONFIG.block_size
GREEDY = Sampling(20, temperature=0.0)
PROMPTS = [[7], [1, 2, 3], list(range(BLOCK - 1)), list(range(BLOCK)), list(range(30)), [7]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bytes, one character of several bytes, and <|endoftext|>: 258 entries."""
    folder = tmp_path_factory.mktemp("made") / "tokenizer"
    build_tokenizer(Tokenizer(kind="char", vocab_size=258, train_bytes=10**9, special_tokens=()), ["ï"], folder)
    return folder


@pytest.fixture(scope="module")
def encoding(tokenizer: Path) -> Encoding:
    return load_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def model() -> GPTModel:
    return make_large(replace(CONFIG, vocab_size=258))


def parrot(said: Sequence[int], after: int = 0) -> GPTModel:
    """Return a model that says these tokens, one after the other, once it has read `after` tokens more than one.

    It knows nothing but the position: a one-hot vector, which no block changes and the head maps to a token.
    """
    size = len(said) + after + 2
    model = make(GPTConfig(300, 1, 1, size, size, tie_embeddings=False, init="zero"))
    assert model.pos_emb is not None and model.out_head is not None
    with torch.no_grad():
        model.tok_emb.weight.zero_()
        model.pos_emb.weight.copy_(torch.eye(size))
        model.out_head.weight.zero_()
        model.out_head.weight[list(said), torch.arange(after, after + len(said))] = 1.0
    return model


def dice(*logits: float) -> GPTModel:
    """Return a model of which every token has these logits: its last norm makes all states the same."""
    model = make(GPTConfig(len(logits), 1, 1, 2, 12, tie_embeddings=False))
    assert isinstance(model.final_norm, LayerNorm) and model.final_norm.shift is not None and model.out_head is not None
    with torch.no_grad():
        model.final_norm.scale.zero_()
        model.final_norm.shift.copy_(torch.tensor([1.0, 0.0]))
        model.out_head.weight.zero_()
        model.out_head.weight[:, 0] = torch.tensor(logits)
    return model


def count_reads(model: GPTModel) -> list[int]:
    """Return a list that gets the number of tokens of each pass."""
    reads: list[int] = []
    model.final_norm.register_forward_hook(lambda norm, inputs, output: reads.append(output[..., 0].numel()))
    return reads


def written(model: GPTModel, prompts: Sequence[Sequence[int]], sampling: Sampling, **options: Any) -> list[list[int]]:
    """Return the tokens of each row."""
    rows: list[list[int]] = [[] for _ in prompts]
    for step in generate_tokens(model, prompts, sampling, **options):
        for row, token in step.items():
            rows[row].append(token)
    return rows


def alone(model: GPTModel, prompt: Sequence[int], sampling: Sampling, **options: Any) -> list[int]:
    return written(model, [prompt], sampling, **options)[0]


def spoken(encoding: Encoding, said: Sequence[int], *stop: str, count: int | None = None) -> list[str]:
    """Return the pieces of text in which these tokens come."""
    sampling = Sampling(count or len(said), temperature=0.0, stop=stop)
    return list(generate_text(parrot(said), encoding, "", sampling))


def frequencies(model: GPTModel, sampling: Sampling, rows: int = 4000, prompt: Sequence[int] = (0,)) -> list[float]:
    """Return how often each token comes first."""
    counts = Counter(row[0] for row in written(model, [prompt] * rows, replace(sampling, max_new_tokens=1)))
    return [counts[token] / rows for token in range(model.config.vocab_size)]


# What the model sees


@pytest.mark.parametrize("length", [1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 40])
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, position="learned")], ids=describe)
def test_the_likeliest_token_of_a_window_whose_oldest_half_goes_when_it_is_full(config: GPTConfig, length: int) -> None:
    model = make_large(config)
    prompt = [number % 50 for number in range(length)]
    window, expected = prompt[-BLOCK:], []
    for _ in range(30):
        if len(window) > BLOCK:
            window = window[-BLOCK // 2 :]
        expected.append(int(model(torch.tensor([window]))[0, -1].argmax()))
        window = [*window, expected[-1]]
    assert alone(model, prompt, replace(GREEDY, max_new_tokens=30)) == expected


@pytest.mark.parametrize("block_size", [1, 2, 3])
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_smallest_windows_work_too(block_size: int, use_cache: bool) -> None:
    model = make_large(replace(CONFIG, block_size=block_size))
    assert len(alone(model, [1, 2, 3, 4], GREEDY, use_cache=use_cache)) == 20


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(20, top_k=30, seed=3)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_cached_and_uncached_agree(config: GPTConfig, sampling: Sampling) -> None:
    model = make_large(config)
    assert written(model, PROMPTS, sampling) == written(model, PROMPTS, sampling, use_cache=False)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(20, top_p=0.95, seed=3)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_a_batch_agrees_with_its_members_alone(config: GPTConfig, sampling: Sampling) -> None:
    model = make_large(config)
    found = written(model, PROMPTS, sampling)
    assert found == [
        alone(model, prompt, replace(sampling, seed=sampling.seed + row)) for row, prompt in enumerate(PROMPTS)
    ]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 257), min_size=1, max_size=30), st.integers(0, 25)), min_size=1, max_size=6
    )
)
@settings(deadline=None, max_examples=40)
def test_rows_of_any_length_that_end_anywhere_agree_with_themselves_alone(
    model: GPTModel, rows: list[tuple[list[int], int]]
) -> None:
    prompts, lengths = [prompt for prompt, _ in rows], [length for _, length in rows]
    sampling = Sampling(25, temperature=0.9, repetition_penalty=1.2, seed=5)
    steps = Counter[int]()

    def ends(row: int, token: int) -> bool:
        steps[row] += 1
        return steps[row] >= lengths[row]

    found = written(model, prompts, sampling, ends=ends)
    for row, (prompt, length) in enumerate(rows):
        of_row = replace(sampling, max_new_tokens=max(1, length), seed=5 + row)
        wanted = alone(model, prompt, of_row)
        if found[row] != wanted:
            check_rounding(model, prompt, found[row], wanted, of_row)


def check_rounding(model: GPTModel, prompt: list[int], found: list[int], wanted: list[int], sampling: Sampling) -> None:
    """Assert that where two rows part, the last bits decided which token was drawn: the draw lies at the edge of both."""
    place = next(place for place, pair in enumerate(zip(found, wanted, strict=True)) if len({*pair}) == 2)
    tokens, block_size = [*prompt, *wanted[:place]], model.config.block_size
    window = prompt[-block_size:]
    for token in wanted[:place]:
        window.append(token)
        if len(window) > block_size:
            window = window[-max(1, block_size // 2) :]
    generator = torch.Generator().manual_seed(sampling.seed)
    draw = [float(torch.rand((), dtype=torch.float64, generator=generator)) for _ in range(place + 1)][-1]
    with torch.inference_mode():
        logits = model(torch.tensor([window]))[0, -1]
        seen, penalty = list({*tokens}), sampling.repetition_penalty
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        sums = (logits / sampling.temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    between = float(sums[min(found[place], wanted[place])] / sums[-1])
    assert abs(draw - between) < 1e-6, (found, wanted)


def test_a_draw_at_the_edge_of_two_tokens_may_fall_to_either() -> None:
    """Found at random: the draw is 1e-8 from the edge, which a row of a batch has elsewhere than the row alone."""
    model = make_large(replace(CONFIG, vocab_size=258))
    prompt = [70, 89, 98, 125, 22, 22, 74, 105, 149, 196, 44, 38, 200, 112, 250]
    sampling = Sampling(3, temperature=0.9, repetition_penalty=1.2, seed=9)
    check_rounding(model, prompt, [34, 198, 83], [34, 198, 82], sampling)
    with pytest.raises(AssertionError):
        check_rounding(model, prompt, [34, 198, 83], [34, 198, 81], sampling)


def test_a_cache_lets_every_token_be_read_once() -> None:
    model = make(replace(CONFIG, block_size=64))
    reads = count_reads(model)
    alone(model, [1, 2, 3], GREEDY)
    assert reads == [2] + 20 * [1]
    reads.clear()
    alone(model, [1, 2, 3], GREEDY, use_cache=False)
    assert reads == list(range(3, 23))


def test_a_full_window_is_read_again_once_every_half_window() -> None:
    model = make(CONFIG)
    reads = count_reads(model)
    alone(model, [1], GREEDY)
    assert reads == 12 * [1] + [5] + 7 * [1] + [5] + [1]


def test_a_row_that_is_over_is_no_longer_computed() -> None:
    model = make(replace(CONFIG, block_size=64))
    reads = count_reads(model)
    written(model, [[1]] * 4, GREEDY, ends=lambda row, token: row > 0)
    assert reads == [4] + 19 * [1]
    reads.clear()
    written(model, [[1]] * 4, GREEDY, ends=lambda row, token: True)
    assert reads == [4]


def test_a_prompt_without_tokens_is_refused(model: GPTModel) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        alone(model, [], GREEDY)


# How tokens are chosen


def test_the_seed_decides(model: GPTModel) -> None:
    first = alone(model, [1, 2, 3], Sampling(20, seed=1))
    torch.manual_seed(99)  # the global generator has no say
    assert alone(model, [1, 2, 3], Sampling(20, seed=1)) == first
    assert alone(model, [1, 2, 3], Sampling(20, seed=2)) != first
    assert alone(model, [1, 2, 3], Sampling(12, seed=1)) == first[:12]


def test_rows_have_seeds_of_their_own_or_the_ones_they_are_given(model: GPTModel) -> None:
    first, second, third = written(model, [[1]] * 3, Sampling(20, seed=4))
    assert first != second
    assert alone(model, [1], Sampling(20, seed=6)) == third
    assert written(model, [[1]] * 2, Sampling(20), seeds=[6, 6]) == [third, third]


@pytest.mark.parametrize("temperature", [1e-300, 0.1, 1.0, 10.0])
def test_top_1_is_greedy(model: GPTModel, temperature: float) -> None:
    found = alone(model, [1, 2, 3], Sampling(20, temperature=temperature, top_k=1, seed=7))
    assert found == alone(model, [1, 2, 3], GREEDY)


@given(st.integers(1, 300), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_only_the_top_k_are_chosen(model: GPTModel, top_k: int, seed: int) -> None:
    (token,) = alone(model, [1, 2, 3], Sampling(1, temperature=100.0, top_k=top_k, seed=seed))
    logits = model(torch.tensor([[1, 2, 3]]))[0, -1]
    assert int((logits > logits[token]).sum()) < top_k


DICE = dice(*torch.tensor([0.05, 0.4, 0.0, 0.25, 0.2, 0.1]).log().tolist())


@pytest.mark.parametrize(
    ("sampling", "expected"),
    {
        "as the model says": (Sampling(1), [0.05, 0.4, 0, 0.25, 0.2, 0.1]),
        "a low temperature sharpens": (Sampling(1, temperature=0.5), [0.0094, 0.6038, 0, 0.2358, 0.1509, 0.0377]),
        "the lowest is greedy": (Sampling(1, temperature=1e-300), [0, 1, 0, 0, 0, 0]),
        "the highest is even": (Sampling(1, temperature=1e300), [0.2, 0.2, 0, 0.2, 0.2, 0.2]),
        "top-k": (Sampling(1, top_k=2), [0, 0.6154, 0, 0.3846, 0, 0]),
        "top-p reaches the mass": (Sampling(1, top_p=0.6), [0, 0.6154, 0, 0.3846, 0, 0]),
        "top-p passes the mass": (Sampling(1, top_p=0.7), [0, 0.4706, 0, 0.2941, 0.2353, 0]),
        "a small top-p is greedy": (Sampling(1, top_p=1e-9), [0, 1, 0, 0, 0, 0]),
        "min-p": (Sampling(1, min_p=0.4), [0, 0.4706, 0, 0.2941, 0.2353, 0]),
        "min-p 1 is greedy": (Sampling(1, min_p=1.0), [0, 1, 0, 0, 0, 0]),
        "temperature before min-p": (Sampling(1, temperature=0.5, min_p=0.3), [0, 0.7191, 0, 0.2809, 0, 0]),
        # Of the three that top-k leaves 0.7 of the mass are two; of all six it would be three.
        "top-k before top-p": (Sampling(1, top_k=3, top_p=0.7), [0, 0.6154, 0, 0.3846, 0, 0]),
        "all": (Sampling(1, top_k=5, top_p=0.94, min_p=0.3), [0, 0.4706, 0, 0.2941, 0.2353, 0]),
        # Logits are negative here, so a penalty of 2 squares the probability of token 1, which the prompt holds.
        "a penalty for what was there": (
            Sampling(1, repetition_penalty=2.0),
            [0.0658, 0.2105, 0, 0.3289, 0.2632, 0.1316],
        ),
        "penalty before temperature": (
            Sampling(1, repetition_penalty=2.0, temperature=0.5),
            [0.0175, 0.1790, 0, 0.4371, 0.2797, 0.0699],
        ),
    }.values(),
)  # fmt: skip
def test_tokens_come_as_often_as_they_should(sampling: Sampling, expected: list[float]) -> None:
    found = frequencies(DICE, sampling, prompt=[1])
    assert found == pytest.approx(expected, abs=0.03)
    assert [share == 0 for share in found] == [share == 0 for share in expected]


def test_a_penalty_divides_positive_logits_and_counts_what_was_written() -> None:
    model = dice(4.0, 3.0, 2.5, -1.0)
    assert alone(model, [3], replace(GREEDY, max_new_tokens=4)) == [0, 0, 0, 0]
    # 4 becomes 2, then 3 becomes 1.5, then 2.5 becomes 1.25, and 2 is the most again.
    assert alone(model, [3], Sampling(4, temperature=0.0, repetition_penalty=2.0)) == [0, 1, 2, 0]
    assert alone(model, [0, 3], Sampling(1, temperature=0.0, repetition_penalty=2.0)) == [1]


def test_draws_have_the_models_probabilities_over_time_too() -> None:
    found = alone(dice(0.0, math.log(3.0)), [0], Sampling(800))
    assert abs(found.count(1) / 800 - 0.75) < 0.06


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0), ("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")),
        ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1), ("top_p", float("nan")), ("min_p", -0.1), ("min_p", 1.1),
        ("repetition_penalty", 0.0), ("repetition_penalty", float("inf")), ("stop", ("a", "")),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Sampling(**{"max_new_tokens": 5, name: value})


# Text


def test_the_text_ends_at_end_of_text(encoding: Encoding) -> None:
    model = parrot([*b"ab", encoding.eot_token, *b"cd"])
    reads = count_reads(model)
    assert list(generate_text(model, encoding, "", GREEDY)) == ["a", "b"]
    assert len(reads) == 3  # no more was computed


def test_the_text_ends_at_max_new_tokens(encoding: Encoding) -> None:
    assert spoken(encoding, b"abcdef", count=3) == ["a", "b", "c"]


def test_pieces_are_whole_characters(encoding: Encoding) -> None:
    text = "aé漢😀b"  # one to four bytes, a token each
    assert spoken(encoding, text.encode()) == list(text)


@given(st.text(max_size=8))
@settings(deadline=None, max_examples=50)
def test_pieces_together_are_the_text(encoding: Encoding, text: str) -> None:
    found = spoken(encoding, [*encoding.encode_ordinary(text), encoding.eot_token])
    assert "".join(found) == text
    assert "" not in found


def test_bytes_that_are_no_character_are_replaced(encoding: Encoding) -> None:
    assert "".join(spoken(encoding, b"a\xffb\xf0\x9f")) == "a\ufffdb\ufffd"


def test_a_piece_comes_as_soon_as_its_character_is_there(encoding: Encoding) -> None:
    model = parrot("aé漢".encode())
    reads = count_reads(model)
    stream = generate_text(model, encoding, "", Sampling(6, temperature=0.0))
    assert [(piece, len(reads)) for piece in stream] == [("a", 1), ("é", 3), ("漢", 6)]


def test_the_text_ends_before_a_stop_string(encoding: Encoding) -> None:
    model = parrot(b"one\n\ntwo")
    reads = count_reads(model)
    assert "".join(generate_text(model, encoding, "", replace(GREEDY, stop=("\n\n",)))) == "one"
    assert len(reads) == 5  # no more was computed


def test_what_may_be_the_beginning_of_a_stop_string_is_held_back(encoding: Encoding) -> None:
    assert spoken(encoding, b"a\nb\n\nc", "\n\n") == ["a", "\nb"]
    assert spoken(encoding, b"a\n", "\n\n") == ["a", "\n"]  # in the end it was none
    assert spoken(encoding, [*b"a\n", encoding.eot_token], "\n\n") == ["a", "\n"]
    assert spoken(encoding, b"xababac", "abac") == ["x", "ab"]  # a beginning within a beginning
    assert spoken(encoding, "aé漢b".encode(), "é漢!") == ["a", "é漢b"]


def test_the_stop_string_that_is_complete_first_counts(encoding: Encoding) -> None:
    assert spoken(encoding, b"xabcd", "abcd", "bc") == ["x", "a"]
    assert spoken(encoding, b"xabc", "abc", "bc", "c") == ["x"]


def test_the_prompt_is_not_searched_for_stop_strings(encoding: Encoding) -> None:
    sampling = Sampling(2, temperature=0.0, stop=("\n\n",))
    assert list(generate_text(parrot(b"\na", after=5), encoding, "x\n\ny\n", sampling)) == ["\na"]


STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


@given(st.text("abc", max_size=12), STOPS)
@settings(deadline=None, max_examples=200)
def test_stop_strings_end_the_text_where_reading_it_letter_by_letter_finds_them(
    encoding: Encoding, text: str, stops: list[str]
) -> None:
    expected = text
    for end in range(len(text) + 1):
        if ending := [stop for stop in stops if text[:end].endswith(stop)]:
            expected = text[: end - max(map(len, ending))]
            break
    pieces = spoken(encoding, [*text.encode(), encoding.eot_token], *stops)
    assert "".join(pieces) == expected
    assert "" not in pieces


@given(st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4), STOPS)
@settings(deadline=None, max_examples=100)
def test_it_makes_no_difference_to_stop_strings_how_text_falls_into_tokens(words: list[str], stops: list[str]) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in words:
        ranks.setdefault(word.encode(), len(ranks))
    encoding = tiktoken.Encoding("words", pat_str=".+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 299})
    by_words = spoken(encoding, [ranks[word.encode()] for word in words], *stops)
    by_letters = spoken(encoding, list("".join(words).encode()), *stops)
    assert "".join(by_words) == "".join(by_letters)


def test_a_text_begins_as_a_document_does(model: GPTModel, encoding: Encoding) -> None:
    found = alone(model, [encoding.eot_token, *encoding.encode_ordinary("ab")], replace(GREEDY, max_new_tokens=5))
    text = encoding.decode_bytes([token for token in found if token != encoding.eot_token]).decode(errors="replace")
    assert text.startswith("".join(generate_text(model, encoding, "ab", replace(GREEDY, max_new_tokens=5))))


@pytest.mark.parametrize("sampling", [replace(GREEDY, stop=("e", "o")), Sampling(30, top_k=40, seed=3, stop=("e",))])
def test_texts_are_what_each_prompt_gives_alone(model: GPTModel, encoding: Encoding, sampling: Sampling) -> None:
    prompts = ["", "to be", "漢", *(f"number {number}" for number in range(32))]  # more than go at a time
    expected = [
        "".join(generate_text(model, encoding, prompt, replace(sampling, seed=sampling.seed + row)))
        for row, prompt in enumerate(prompts)
    ]
    assert generate_texts(model, encoding, prompts, sampling) == expected
    assert (
        generate_texts(model, encoding, prompts[3:5], sampling, seeds=[sampling.seed + 3, sampling.seed + 4])
        == expected[3:5]
    )
    assert generate_texts(model, encoding, [], sampling) == []


def test_the_model_is_left_as_it_was() -> None:
    model = make(replace(CONFIG, vocab_size=258, dropout=0.5)).train()
    state = torch.get_rng_state()
    first = alone(model, [1, 2, 3], Sampling(20, seed=3))
    assert model.training
    assert alone(model, [1, 2, 3], Sampling(20, seed=3)) == first  # no dropout while it writes
    stream = generate_tokens(model, [[1]], Sampling(9))
    next(stream)
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_inference_mode_enabled() is False


# The command


@pytest.fixture
def project(model: GPTModel, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in the current folder, with a model of few characters."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    save_model(model, tokenizer, tmp_path / "models/base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_gpt_generate_continues_each_prompt_with_what_params_say(
    model: GPTModel, encoding: Encoding, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = load_params(project / "params.yaml")
    settings = params.evaluate.model_dump(include={"max_new_tokens", "temperature", "top_k"})
    prompts = ["to be", "", "漢"]
    texts = generate_texts(model, encoding, prompts, Sampling(**settings, seed=params.base.seed))
    assert main(["generate", *prompts]) == 0
    assert capsys.readouterr().out == "\n\n".join(map("".join, zip(prompts, texts, strict=True))) + "\n"
    assert main(["generate", prompts[0]]) == 0
    assert capsys.readouterr().out == prompts[0] + texts[0] + "\n"


def test_gpt_generate_takes_every_setting(
    model: GPTModel, encoding: Encoding, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (
        "--max-new-tokens 40 --temperature 1.5 --top-k 90 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.3 --seed 8"
    )
    assert main(["generate", "a", *flags.split(), "--stop", "e", "--stop", "zz"]) == 0
    sampling = Sampling(40, 1.3, 1.5, 90, 0.9, 0.01, ("e", "zz"), 8)
    assert capsys.readouterr().out == "a" + "".join(generate_text(model, encoding, "a", sampling)) + "\n"


@pytest.mark.parametrize(
    "flags",
    ["--top-p 0", "--top-p nan", "--top-p 1.1", "--min-p -1", "--min-p 2", "--repetition-penalty 0", "--stop=", "--top-k -1",
     "--top-k x", "--temperature -1", "--temperature inf", "--max-new-tokens 0", "--seed -1"],
)  # fmt: skip
def test_a_wrong_value_is_named_and_ends_with_2(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a", *flags.split()]) == 2
    assert f"error: {flags.replace('=', ' ').split()[0]}: must " in capsys.readouterr().err
