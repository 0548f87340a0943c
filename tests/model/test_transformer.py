import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.model.layers import FeedForward, LayerNorm
from gpt.model.transformer import GPTConfig, GPTModel

CONFIG = GPTConfig(
    vocab_size=50, n_layer=2, n_head=2, n_embd=16, block_size=12, dropout=0.0, bias=True, position="rotary", tie_embeddings=True
)  # fmt: skip
VARIANTS = [
    replace(CONFIG, position=position, tie_embeddings=tied, bias=bias)
    for position, tied, bias in itertools.product(("learned", "rotary"), (True, False), (True, False))
]


def describe(config: GPTConfig) -> str:
    tied = "tied" if config.tie_embeddings else "untied"
    return f"{config.position}-{tied}-{'bias' if config.bias else 'no bias'}"


def make(config: GPTConfig, seed: int = 0) -> GPTModel:
    model = GPTModel(config)
    model.init_weights(seed)
    return model.eval()


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", VARIANTS, ids=describe)
def test_no_position_sees_a_later_one_through_the_whole_model(config: GPTConfig) -> None:
    model = make(config)
    torch.manual_seed(0)
    for parameter in model.parameters():  # large weights, so that whatever can be seen shows
        torch.nn.init.normal_(parameter, std=0.5)
    x = tokens(2, 12)
    before = model(x)
    for position in range(12):
        changed = x.clone()
        changed[:, position] = (changed[:, position] + 1) % 50
        after = model(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.allclose(after[:, position:], before[:, position:])


@pytest.mark.parametrize("config", VARIANTS, ids=describe)
@given(st.integers(1, 4), st.integers(1, 12))
@settings(deadline=None, max_examples=10)
def test_logits_do_not_depend_on_neighbours_or_on_what_follows(config: GPTConfig, batch: int, length: int) -> None:
    model = make(config)
    x = tokens(4, 12)
    whole = model(x)
    assert whole.shape == (4, 12, 50)
    torch.testing.assert_close(model(x[:batch, :length]), whole[:batch, :length], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_the_model_knows_the_order_of_tokens(position: str) -> None:
    model = make(replace(CONFIG, position=position))
    first, second = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[2, 1, 3]]))
    assert not torch.allclose(first[0, -1], second[0, -1])


@pytest.mark.parametrize("config", VARIANTS, ids=describe)
def test_parameters_are_those_of_the_architecture(config: GPTConfig) -> None:
    C, V = config.n_embd, config.vocab_size
    norm = C * (2 if config.bias else 1)
    block = 2 * norm + 4 * C * C + 8 * C * C + (4 * C + 5 * C if config.bias else 0)
    learned = config.block_size * C if config.position == "learned" else 0
    head = 0 if config.tie_embeddings else V * C
    model = GPTModel(config)
    assert model.count_parameters() == V * C + learned + config.n_layer * block + norm + head
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == model.count_parameters()


def test_a_tied_head_is_the_token_embedding() -> None:
    tied, untied = GPTModel(CONFIG), GPTModel(replace(CONFIG, tie_embeddings=False))
    assert untied.count_parameters() - tied.count_parameters() == 50 * 16
    hidden = {}
    tied.final_norm.register_forward_hook(lambda module, inputs, output: hidden.update(x=output))
    logits = tied(tokens(1, 5))
    torch.testing.assert_close(logits, hidden["x"] @ tied.tok_emb.weight.T)
    logits.sum().backward()
    assert tied.tok_emb.weight.grad is not None
    assert (tied.tok_emb.weight.grad.abs().sum(dim=1) > 0).all()  # also of tokens that were no input


def test_weights_are_drawn_as_gpt2_draws_them() -> None:
    config = replace(CONFIG, n_embd=128, n_layer=8, vocab_size=500, position="learned", tie_embeddings=False)
    model = make(config)
    for name, parameter in model.named_parameters():
        if name.endswith("scale"):
            assert (parameter == 1).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 0).all(), name
        else:
            expected = 0.02 / 4 if name.endswith("out_proj.weight") else 0.02  # sqrt(2 * 8) = 4
            assert abs(parameter.std().item() / expected - 1) < 0.05, name
            assert abs(parameter.mean().item()) < expected / 10, name


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(5)
    first = make(CONFIG, seed=3).state_dict()
    torch.manual_seed(6)  # the global generator has no say
    second, other = make(CONFIG, seed=3).state_dict(), make(CONFIG, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["tok_emb.weight"], other["tok_emb.weight"])


def test_a_fresh_model_predicts_about_evenly() -> None:
    model = make(replace(CONFIG, vocab_size=50))
    x = tokens(8, 13)
    loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    assert abs(loss.item() - math.log(50)) < 0.1


@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_more_tokens_than_block_size_are_refused(position: str) -> None:
    model = make(replace(CONFIG, position=position))
    assert model(tokens(1, 12)).shape == (1, 12, 50)
    with pytest.raises(ValueError, match="13 tokens do not fit into block_size = 12"):
        model(tokens(1, 13))


@pytest.mark.parametrize("config", VARIANTS, ids=describe)
def test_a_model_learns_a_short_text_by_heart(config: GPTConfig) -> None:
    model = make(config).train()
    x = tokens(1, 13)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    loss = torch.tensor(0.0)
    for _ in range(60):
        loss = F.cross_entropy(model(x[:, :-1])[0], x[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert loss.item() < 0.2


def test_dropout_works_in_training_only() -> None:
    model = make(replace(CONFIG, dropout=0.5))
    x = tokens(1, 12)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_is_pytorchs(bias: bool) -> None:
    ours, theirs = LayerNorm(16, bias), torch.nn.LayerNorm(16, bias=bias)
    x = torch.randn(2, 3, 16) * 5 + 2
    torch.testing.assert_close(ours(x), theirs(x))
    assert (ours.shift is None) != bias


def test_feed_forward_is_gpt2s() -> None:
    layer = FeedForward(8, dropout=0.0, bias=True)
    x = torch.randn(2, 3, 8)
    hidden = x @ layer.expand.weight.T + layer.expand.bias
    gelu = 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    torch.testing.assert_close(layer(x), gelu @ layer.out_proj.weight.T + layer.out_proj.bias, atol=1e-6, rtol=1e-5)
