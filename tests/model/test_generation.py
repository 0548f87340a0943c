from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gpt.data.tokenizer import build_tokenizer
from gpt.model.generation import generate_text, generate_tokens
from gpt.model.transformer import GPTModel
from gpt.params import Tokenizer
from tests.model.test_transformer import CONFIG, make


@pytest.fixture(scope="module")
def encoding(tmp_path_factory: pytest.TempPathFactory) -> tiktoken.Encoding:
    """Bytes, one character of several bytes, and <|endoftext|>: 258 entries."""
    settings = Tokenizer(kind="char", vocab_size=258)
    return build_tokenizer(settings, ["ï"], tmp_path_factory.mktemp("made") / "tokenizer")


@pytest.fixture(scope="module")
def model() -> GPTModel:
    model = make(replace(CONFIG, vocab_size=258))
    torch.manual_seed(0)
    for parameter in model.parameters():  # large weights, so that the choices differ
        nn.init.normal_(parameter, std=0.5)
    return model


class Parrot(GPTModel):
    """A model that says what it is told to, one token after the other, whatever it hears."""

    def __init__(self, tokens: Sequence[int]) -> None:
        super().__init__(replace(CONFIG, vocab_size=258))
        self.rest = list(tokens)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, 258)
        logits[:, -1, self.rest.pop(0)] = 1.0
        return logits


def tokens(model: GPTModel, prompt: Sequence[int] = (1, 2, 3), **options: float) -> list[int]:
    settings = {"max_new_tokens": 20, "temperature": 1.0, "top_k": 0, "seed": 0} | options
    return list(generate_tokens(model, prompt, **settings))  # pyright: ignore[reportArgumentType]


def pieces(model: GPTModel, encoding: tiktoken.Encoding, prompt: str = "", **options: float) -> list[str]:
    settings = {"max_new_tokens": 20, "temperature": 0.0, "top_k": 0, "seed": 0} | options
    return list(generate_text(model, encoding, prompt, **settings))  # pyright: ignore[reportArgumentType]


def test_greedy_takes_the_likeliest_token_always(model: GPTModel) -> None:
    found = tokens(model, temperature=0.0)
    window = [1, 2, 3]
    for token in found:
        assert token == int(model(torch.tensor([window[-12:]]))[0, -1].argmax())
        window.append(token)
    assert tokens(model, temperature=0.0, seed=1) == found


def test_the_seed_decides(model: GPTModel) -> None:
    first = tokens(model, seed=1)
    torch.manual_seed(99)  # the global generator has no say
    assert tokens(model, seed=1) == first
    assert tokens(model, seed=2) != first


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_top_1_is_greedy(model: GPTModel, temperature: float) -> None:
    assert tokens(model, temperature=temperature, top_k=1, seed=7) == tokens(model, temperature=0.0)


@given(st.integers(1, 300), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_only_the_top_k_are_chosen(model: GPTModel, top_k: int, seed: int) -> None:
    (token,) = tokens(model, max_new_tokens=1, top_k=top_k, temperature=100.0, seed=seed)
    logits = model(torch.tensor([[1, 2, 3]]))[0, -1]
    assert int((logits > logits[token]).sum()) < top_k


def test_tokens_come_as_often_as_the_model_says() -> None:
    class Coin(Parrot):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits = torch.full((*tokens.shape, 258), -torch.inf)
            logits[..., 5], logits[..., 6] = 0.0, torch.tensor(3.0).log()
            return logits

    found = tokens(Coin([]), max_new_tokens=2000)
    assert set(found) == {5, 6}
    assert abs(found.count(6) / 2000 - 0.75) < 0.05
    # A low temperature sharpens: 3 : 1 becomes 9 : 1.
    assert abs(tokens(Coin([]), max_new_tokens=2000, temperature=0.5).count(6) / 2000 - 0.9) < 0.03


@pytest.mark.parametrize("position", ["learned", "rotary"])
@pytest.mark.parametrize("length", [1, 11, 12, 13, 40])
def test_a_text_may_be_longer_than_block_size(position: str, length: int) -> None:
    model = make(replace(CONFIG, position=position))
    prompt = [number % 50 for number in range(length)]
    found = tokens(model, prompt, temperature=0.0, max_new_tokens=30)
    assert len(found) == 30
    window = [*prompt, *found[:-1]][-12:]
    assert found[-1] == int(model(torch.tensor([window]))[0, -1].argmax())


def test_the_text_ends_at_end_of_text(encoding: tiktoken.Encoding) -> None:
    model = Parrot([*b"ab", encoding.eot_token, *b"cd"])
    assert pieces(model, encoding) == ["a", "b"]
    assert model.rest == list(b"cd")  # no more was computed


def test_the_text_ends_at_max_new_tokens(encoding: tiktoken.Encoding) -> None:
    model = Parrot(b"abcdef")
    assert pieces(model, encoding, max_new_tokens=3) == ["a", "b", "c"]


def test_pieces_are_whole_characters(encoding: tiktoken.Encoding) -> None:
    text = "aé漢😀b"  # one to four bytes, a token each
    assert pieces(Parrot(text.encode()), encoding, max_new_tokens=len(text.encode())) == list(text)


@given(st.text(max_size=8))
@settings(deadline=None, max_examples=50)
def test_pieces_together_are_the_text(encoding: tiktoken.Encoding, text: str) -> None:
    spoken = [*encoding.encode_ordinary(text), encoding.eot_token]
    found = pieces(Parrot(spoken), encoding, max_new_tokens=len(spoken))
    assert "".join(found) == text
    assert "" not in found


def test_bytes_that_are_no_character_are_replaced(encoding: tiktoken.Encoding) -> None:
    assert "".join(pieces(Parrot(b"a\xffb\xf0\x9f"), encoding, max_new_tokens=5)) == "a\ufffdb\ufffd"


def test_a_piece_comes_as_soon_as_its_character_is_there(encoding: tiktoken.Encoding) -> None:
    model = Parrot("aé漢".encode())
    stream = generate_text(model, encoding, "", max_new_tokens=6, temperature=0.0, top_k=0, seed=0)
    left = []
    for piece in stream:
        left.append((piece, len(model.rest)))
    assert left == [("a", 5), ("é", 3), ("漢", 0)]


def test_a_text_begins_as_a_document_does(model: GPTModel, encoding: tiktoken.Encoding) -> None:
    prompt = [encoding.eot_token, *encoding.encode_ordinary("ab")]
    found = tokens(model, prompt, temperature=0.0, max_new_tokens=5)
    text = encoding.decode_bytes([token for token in found if token != encoding.eot_token]).decode(errors="replace")
    assert text.startswith("".join(pieces(model, encoding, "ab", max_new_tokens=5)))


def test_the_model_is_left_as_it_was(encoding: tiktoken.Encoding) -> None:
    model = make(replace(CONFIG, vocab_size=258, dropout=0.5)).train()
    state = torch.get_rng_state()
    first = tokens(model, seed=3)
    assert model.training
    assert tokens(model, seed=3) == first  # no dropout while it speaks
    stream = generate_tokens(model, [1], max_new_tokens=9, temperature=1.0, top_k=0, seed=0)
    next(stream)
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_inference_mode_enabled() is False
