"""The decoder computes what the model computes, whatever the model is made of."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from gpt.model.decoder import Decoder
from gpt.model.transformer import GPTConfig, GPTModel
from tests.model.test_transformer import CHOICES, CONFIG, describe, make, tokens


def decoded(model: GPTModel, x: torch.Tensor, starts: Sequence[int], count: int, transpose: bool) -> torch.Tensor:
    """Return logits (B, count, vocab_size) of rows of which the cache holds the first `starts` tokens."""
    cache, decoder = model.new_cache(len(x)), Decoder(model, transpose=transpose)
    with torch.no_grad():
        if max(starts):
            model.hidden(x[:, : max(starts)], cache)
            cache.advance(starts)
    rows = torch.arange(len(x))
    logits = [decoder(x[rows, torch.tensor(cache.lengths)], cache) for _ in range(count)]
    assert cache.lengths == [start + count for start in starts]
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("transpose", [False, True], ids=["as they are", "transposed"])
@pytest.mark.parametrize("starts", [[0], [3], [4, 4], [5, 1, 0]], ids=str)
@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_logits_are_the_models(config: GPTConfig, starts: list[int], transpose: bool) -> None:
    model = make(config)
    for parameter in model.parameters():  # none is zero, so that each has a say
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    x = tokens(len(starts), config.block_size)
    count = config.block_size - max(starts)
    found = decoded(model, x, starts, count, transpose)
    with torch.no_grad():
        whole = model(x)
    for row, start in enumerate(starts):
        torch.testing.assert_close(found[row], whole[row, start : start + count], atol=1e-5, rtol=1e-5)


def test_many_rows_are_no_exception() -> None:
    model = make(replace(CONFIG, position="learned"))
    x = tokens(100, 12)
    with torch.no_grad():
        torch.testing.assert_close(decoded(model, x, [4] * 100, 8, False), model(x)[:, 4:], atol=1e-5, rtol=1e-5)


def test_the_model_keeps_its_weights_and_its_gradients() -> None:
    model = make(CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    decoded(model, tokens(2, 12), [2, 2], 5, True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model(tokens(1, 3)).sum().backward()
    assert model.tok_emb.weight.grad is not None
