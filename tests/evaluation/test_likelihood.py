import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gpt import paths
from gpt.evaluation import likelihood, windows
from gpt.evaluation.likelihood import Likelihood, documents_likelihood, split_likelihood, token_nats
from gpt.evaluation.windows import context_lengths, cut_windows, group_by_length
from gpt.model import loss
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.tokens.shards import TokenReader
from tests.model.test_transformer import CONFIG, make
from tests.processes.together import alone, together

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
    for inputs, targets in cut_windows(document, END, block_size):
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


@pytest.mark.parametrize("block_size", [2, 3, 7, 12])
def test_each_token_gets_what_a_document_alone_gives_it(block_size: int) -> None:
    model = loud(replace(CONFIG, block_size=block_size))
    texts = documents(1, 40, 2, 6, 13, 7, 8)
    found = list(token_nats(model, texts, END))
    assert [len(nats) for nats in found] == [1, 40, 2, 6, 13, 7, 8]
    for nats, text in zip(found, texts, strict=True):
        assert nats.sum() == pytest.approx(reference(model, text), rel=1e-5)
        with torch.inference_mode():  # the first block is predicted in one pass
            head = torch.tensor([[END, *text[: block_size - 1]]])[:, : len(text)]
            expected = -torch.log_softmax(model(head)[0], dim=-1)[range(head.shape[1]), text[:block_size]]
        assert np.allclose(nats[:block_size], expected.numpy(), rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 200), st.integers(1, 100), st.randoms())
@settings(deadline=None, max_examples=25)
def test_what_a_token_gets_depends_on_no_order_batch_or_portion(
    lengths: list[int], tokens_per_batch: int, tokens_at_a_time: int, random: Random
) -> None:
    model, texts = loud(), documents(*lengths)
    whole = list(token_nats(model, texts, END))
    order = random.sample(range(len(texts)), len(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "TOKENS_PER_BATCH", tokens_per_batch)
        patch.setattr(likelihood, "_TOKENS_AT_A_TIME", tokens_at_a_time)
        other = list(token_nats(model, [texts[place] for place in order], END))
    for place, nats in zip(order, other, strict=True):
        assert np.allclose(nats, whole[place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_each_token_is_computed_by_one_rank_and_to_the_bit_as_by_one_alone(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "TOKENS_PER_BATCH", 24)
    monkeypatch.setattr(likelihood, "_TOKENS_AT_A_TIME", 70)
    model, texts = loud(), documents(3, 30, 13, 1, 20, 44, 12, 12)
    whole = list(token_nats(model, texts, END))
    parts = [list(token_nats(model, texts, END, share=alone(rank, ranks))) for rank in range(ranks)]
    for number, nats in enumerate(whole):
        of_ranks = np.array([part[number] for part in parts])
        assert (np.count_nonzero(of_ranks, axis=0) == 1).all()
        np.testing.assert_array_equal(of_ranks.sum(axis=0), nats)
    assert all(any(nats.any() for nats in part) for part in parts)
    for nats in together(ranks, lambda share: list(token_nats(model, texts, END, share=share))):
        assert all(np.array_equal(own, other) for own, other in zip(nats, whole, strict=True))


@given(length=st.integers(1, 300), block_size=st.integers(1, 40))
@settings(deadline=None, max_examples=200)
def test_the_context_of_a_token_is_what_stands_before_it_in_its_window(length: int, block_size: int) -> None:
    places = [
        place + 1
        for window in cut_windows(np.arange(1000, 1000 + length), END, block_size)
        for place, target in enumerate(window.targets)
        if target >= 0
    ]
    assert context_lengths(length, block_size).tolist() == places


@given(st.lists(st.integers(1, 512), min_size=1, max_size=300))
@settings(deadline=None, max_examples=50)
def test_sorted_by_length_little_is_padded(lengths: list[int]) -> None:
    sizes = np.array(lengths)
    groups = list(group_by_length(sizes))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(sizes)))
    longest = [int(sizes[group].max()) for group in groups]
    assert longest == sorted(longest, reverse=True)
    for group, length in zip(groups, longest, strict=True):
        assert len(group) * length <= windows.TOKENS_PER_BATCH
    # A batch is padded to its first window, and the next one's are no longer than its last: in all less than one batch.
    padded = sum(len(group) * length for group, length in zip(groups, longest, strict=True))
    assert padded - sizes.sum() <= max(lengths) * max(map(len, groups))


def test_the_largest_tensor_does_not_grow_with_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "_CHUNK_BYTES", 1 << 22)
    for vocab_size in (1000, 50257):
        model = GPTModel(replace(CONFIG, vocab_size=vocab_size, block_size=64))
        model.init_weights(seed=0)
        with LargestTensor() as watch:
            nats = next(iter(token_nats(model, documents(150), END)))
        assert nats.mean() == pytest.approx(math.log(vocab_size), abs=0.5)
        assert watch.bytes <= 1 << 22, "the weights themselves are below that"
        with LargestTensor() as watch, torch.no_grad():
            model(torch.zeros(8, 64, dtype=torch.int64))
        assert watch.bytes >= 8 * 64 * vocab_size * 4, "logits of all tokens would be seen"


class LargestTensor(TorchDispatchMode):
    """Notes how many bytes the largest tensor has that an operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not found._is_view():
            self.bytes = max(self.bytes, found.numel() * found.element_size())
        return found


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 200))
@settings(deadline=None, max_examples=25)
def test_it_does_not_depend_on_batching(lengths: list[int], tokens_per_batch: int) -> None:
    model, texts = loud(), documents(*lengths)
    whole = documents_likelihood(model, texts, END)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "TOKENS_PER_BATCH", tokens_per_batch)
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
    monkeypatch.setattr(windows, "TOKENS_PER_BATCH", 24)  # two windows: several batches for each
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
