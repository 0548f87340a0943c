import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gpt import paths
from gpt.evaluation import likelihood
from gpt.evaluation.likelihood import Likelihood, _windows, documents_likelihood, split_likelihood
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.tokens.shards import TokenReader
from tests.model.test_transformer import CONFIG, make

END = 49  # of CONFIG's 50 tokens


def loud(config: GPTConfig = CONFIG) -> GPTModel:
    """A model whose predictions differ much from one token to the next."""
    model = make(config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def documents(*lengths: int) -> list[np.ndarray]:
    """Documents of so many tokens, <|endoftext|> included."""
    random = np.random.default_rng(0)
    return [np.append(random.integers(0, END, length - 1), END).astype(np.int64) for length in lengths]


def reference(model: GPTModel, document: np.ndarray) -> float:
    """Nats of one document, one token after the other, each from the window that the docstring promises.

    Windows begin every ceil(block_size / 2) tokens of <|endoftext|> + document; a token is predicted in the first that reaches it.
    """
    block = model.config.block_size
    stride = math.ceil(block / 2)
    stream = [END, *document.tolist()]
    nats = 0.0
    with torch.inference_mode():
        for position in range(1, len(stream)):
            start = 0
            while start + block < position:
                start += stride
            logits = model(torch.tensor([stream[start:position]]))[0, -1]
            nats -= torch.log_softmax(logits.double(), dim=-1)[stream[position]].item()
    return nats


@pytest.mark.parametrize("position", ["learned", "rotary"])
@pytest.mark.parametrize("block_size", [2, 3, 7, 12])
def test_it_is_the_sum_over_tokens_of_their_surprise(position: str, block_size: int) -> None:
    model = loud(replace(CONFIG, position=position, block_size=block_size))
    texts = documents(1, 2, 6, 7, 8, 12, 13, 40)
    expected = sum(reference(model, text) for text in texts)
    nats, tokens = documents_likelihood(model, texts, END)
    assert tokens == sum(map(len, texts))
    assert nats == pytest.approx(expected, rel=1e-5)


@given(length=st.integers(1, 200), block_size=st.integers(2, 40))
@settings(deadline=None, max_examples=200)
def test_every_token_is_predicted_once_and_with_context(length: int, block_size: int) -> None:
    document = np.arange(1000, 1000 + length)
    predicted: list[int] = []
    for inputs, targets in _windows(document, END, block_size):
        assert 1 <= len(inputs) == len(targets) <= block_size
        for place, target in enumerate(targets.tolist()):
            if target == -1:
                continue
            predicted.append(target)
            # The inputs up to here are the tokens just before it; <|endoftext|> comes before the first.
            context = [END, *range(1000, target)][-(place + 1) :]
            assert inputs[: place + 1].tolist() == context
            assert place + 1 >= min(block_size // 2, target - 1000 + 1)
    assert predicted == document.tolist()


@pytest.mark.parametrize("vocab_size", [50, 257])
def test_a_model_that_knows_nothing_needs_the_vocabularys_bits_a_token(vocab_size: int) -> None:
    model = GPTModel(replace(CONFIG, vocab_size=vocab_size))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    texts = documents(5, 30, 1)
    nats, tokens = documents_likelihood(model, texts, END)
    figures = Likelihood(nats, tokens, text_bytes=100)
    assert figures.bits_per_byte == pytest.approx(math.log2(vocab_size) * 36 / 100)
    assert figures.perplexity == pytest.approx(vocab_size)
    assert figures.loss == pytest.approx(math.log(vocab_size))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 200))
@settings(deadline=None, max_examples=25)
def test_it_does_not_depend_on_batching(lengths: list[int], tokens_per_batch: int) -> None:
    model, texts = loud(), documents(*lengths)
    whole = documents_likelihood(model, texts, END)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "_TOKENS_PER_BATCH", tokens_per_batch)
        other = documents_likelihood(model, texts, END)
    assert other[1] == whole[1]
    assert other[0] == pytest.approx(whole[0], rel=1e-5)


def test_a_documents_figure_does_not_depend_on_its_neighbours() -> None:
    model, texts = loud(), documents(3, 30, 13, 1, 20)
    apart = [documents_likelihood(model, [text], END)[0] for text in texts]
    assert documents_likelihood(model, texts, END)[0] == pytest.approx(sum(apart), rel=1e-6)
    assert documents_likelihood(model, reversed(texts), END)[0] == pytest.approx(sum(apart), rel=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_parts_of_all_ranks_are_the_whole(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "_TOKENS_PER_BATCH", 24)  # two windows: several batches for each
    model, texts = loud(), documents(3, 30, 13, 1, 20, 44, 12, 12)
    parts = [documents_likelihood(model, texts, END, part=(rank, ranks)) for rank in range(ranks)]
    nats, tokens = documents_likelihood(model, texts, END)
    assert sum(part[1] for part in parts) == tokens == sum(map(len, texts))
    assert sum(part[0] for part in parts) == pytest.approx(nats, rel=1e-9)
    assert all(part[1] > 0 for part in parts)


def test_more_ranks_than_batches_leave_some_nothing_to_do() -> None:
    assert documents_likelihood(loud(), documents(3), END, part=(5, 8)) == (0.0, 0)


def test_it_leaves_the_model_as_it_was() -> None:
    model = loud(replace(CONFIG, dropout=0.5)).train()
    first = documents_likelihood(model, documents(30), END)
    assert model.training
    assert documents_likelihood(model, documents(30), END) == first  # no dropout while it measures
    assert all(parameter.grad is None for parameter in model.parameters())


def test_half_precision_is_close() -> None:
    model, texts = loud(), documents(30, 20)
    exact, tokens = documents_likelihood(model, texts, END)
    half, _ = documents_likelihood(model, texts, END, autocast=torch.bfloat16)
    assert half != exact
    assert half / tokens == pytest.approx(exact / tokens, abs=0.05)


def test_a_split_is_all_its_documents_and_their_bytes(prepared_project: Path) -> None:
    model = loud(replace(CONFIG, vocab_size=258))
    reader = TokenReader(prepared_project / paths.TOKENS, "test")
    figures = split_likelihood(model, reader)
    assert figures.tokens == reader.tokens
    assert figures.text_bytes == reader.text_bytes == reader.tokens - reader.documents + _extra_bytes(reader)
    texts = [reader.read(start, end - start) for start, end in reader.document_spans()]
    assert len(texts) == reader.documents > 5
    expected = sum(documents_likelihood(model, [text], reader.end_of_text)[0] for text in texts)
    assert figures.nats == pytest.approx(expected, rel=1e-6)
    values = figures.to_dict()
    assert values["bits_per_byte"] == pytest.approx(figures.nats / math.log(2) / reader.text_bytes)
    assert values["perplexity"] == pytest.approx(math.exp(cast(float, values["loss"])))


def _extra_bytes(reader: TokenReader) -> int:
    """The tokenizer's tokens are characters: those of two bytes count once more."""
    return int((reader.read(0, reader.tokens) == 256).sum())
