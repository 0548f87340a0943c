"""The small parts against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.model.layers import (
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    RMSNorm,
    RotaryEmbedding,
    gelu,
    sinusoidal_positions,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_is_pytorchs(bias: bool) -> None:
    ours, theirs = LayerNorm(16, bias), torch.nn.LayerNorm(16, bias=bias)
    assert (ours.shift is None) != bias
    for layer, names in ((ours, ("scale", "shift")), (theirs, ("weight", "bias"))):
        torch.manual_seed(0)
        for name in names[: 1 + bias]:
            torch.nn.init.normal_(layer.get_parameter(name))
    x = torch.randn(2, 3, 16) * 5 + 2
    torch.testing.assert_close(ours(x), theirs(x))


def test_rms_norm_is_its_formula() -> None:
    layer = RMSNorm(16)
    assert [name for name, _ in layer.named_parameters()] == ["scale"]
    torch.nn.init.normal_(layer.scale)
    x = torch.randn(2, 3, 16) * 5 + 2
    expected = x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * layer.scale
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(layer(torch.zeros(1, 16)), torch.zeros(1, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_gives_the_type_it_is_given_and_the_digits_of_fp32(dtype: torch.dtype) -> None:
    layer = RMSNorm(16)
    torch.nn.init.normal_(layer.scale)
    x = (torch.randn(2, 3, 16) * 5 + 2).to(dtype)
    expected = F.rms_norm(x.float(), (16,), layer.scale, eps=1e-5).to(dtype)
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), expected)


def test_feed_forward_is_gpt2s() -> None:
    layer = FeedForward(8, dropout=0.0, bias=True)
    x = torch.randn(2, 3, 8)
    hidden = x @ layer.expand.weight.T + layer.expand.bias
    activated = 0.5 * hidden * (1 + torch.tanh((2 / math.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    expected = activated @ layer.out_proj.weight.T + layer.out_proj.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)


def test_relu2_is_the_square_of_what_is_positive() -> None:
    layer = FeedForward(8, dropout=0.0, bias=False, activation="relu2")
    x = torch.randn(2, 3, 8)
    hidden = x @ layer.expand.weight.T
    squares = torch.where(hidden > 0, hidden * hidden, 0)
    torch.testing.assert_close(layer(x), squares @ layer.out_proj.weight.T, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compilers_form_of_gelu_is_gelu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat((torch.linspace(-20, 20, 4001), torch.tensor([-1e4, -100.0, 100.0, 1e4]))).to(dtype).requires_grad_()
    wanted = F.gelu(x, approximate="tanh")
    (wanted_gradient,) = torch.autograd.grad(wanted.sum(), x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled = gelu(x)
    (gradient,) = torch.autograd.grad(compiled.sum(), x)
    assert "Gelu" not in type(compiled.grad_fn).__name__  # that it is the other form
    close = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(compiled, wanted, atol=close, rtol=close)
    torch.testing.assert_close(gradient, wanted_gradient, atol=3 * close, rtol=3 * close)


def test_swiglu_is_its_formula() -> None:
    layer = GatedFeedForward(8, dropout=0.0, bias=True)
    x = torch.randn(2, 3, 8)
    gate, value = (x @ part.weight.T + part.bias for part in (layer.gate, layer.expand))
    expected = (gate / (1 + torch.exp(-gate)) * value) @ layer.out_proj.weight.T + layer.out_proj.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)


@given(st.integers(1, 300))
@settings(deadline=None, max_examples=30)
def test_swiglu_has_a_feed_forwards_number_of_weights(width: int) -> None:
    gated, plain = GatedFeedForward(width, 0.0, bias=False), FeedForward(width, 0.0, bias=False)
    count, wanted = (sum(p.numel() for p in layer.parameters()) for layer in (gated, plain))
    assert 0 <= count - wanted < 3 * 8 * width  # the hidden width is rounded up to the next multiple of 8
    assert gated.gate.out_features % 8 == 0


@pytest.mark.parametrize("layer", [FeedForward(8, 0.5, True), GatedFeedForward(8, 0.5, True)])
def test_dropout_works_in_training_only(layer: torch.nn.Module) -> None:
    x = torch.randn(1, 20, 8)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@given(st.integers(1, 40), st.integers(1, 17))
@settings(deadline=None, max_examples=40)
def test_sinusoidal_positions_are_the_papers(length: int, width: int) -> None:
    table = sinusoidal_positions(length, width)
    assert table.shape == (length, width)
    for position in range(length):
        for feature in range(width):
            angle = position / 10_000 ** (2 * (feature // 2) / width)
            wanted = math.cos(angle) if feature % 2 else math.sin(angle)
            assert abs(table[position, feature].item() - wanted) < 1e-5


def test_rotary_scores_depend_on_the_distance_only() -> None:
    torch.manual_seed(0)
    rotary = RotaryEmbedding(8, 32)
    query, key = torch.randn(8), torch.randn(8)
    # The same query and key at every position: (1, 1, T, head_size).
    queries, keys = rotary(query.expand(1, 1, 32, 8)), rotary(key.expand(1, 1, 32, 8))
    scores = (queries @ keys.transpose(-1, -2))[0, 0]
    for distance in range(-31, 32):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-4, rtol=1e-4)
    assert len({round(float(scores.diagonal(distance)[0]), 3) for distance in range(-31, 32)}) > 50


def test_rotary_turns_each_pair_by_its_own_angle() -> None:
    x = torch.randn(1, 1, 5, 6)
    turned = RotaryEmbedding(6, 8)(x)
    for position in range(5):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            wanted = torch.complex(x[..., position, pair], x[..., position, pair + 3]) * complex(
                math.cos(angle), math.sin(angle)
            )
            actual = torch.complex(turned[..., position, pair], turned[..., position, pair + 3])
            torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=1e-5)


def test_rotary_turns_and_does_not_stretch() -> None:
    rotary = RotaryEmbedding(8, 32)
    x = torch.randn(2, 3, 20, 8)
    turned = rotary(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], x[:, :, 1])


def test_rotary_takes_positions_for_all_rows_or_for_each() -> None:
    rotary = RotaryEmbedding(8, 32)
    x = torch.randn(2, 3, 5, 8)
    torch.testing.assert_close(rotary(x, torch.arange(5)), rotary(x))
    whole = torch.zeros(2, 3, 32, 8)
    rows = torch.tensor([[3, 4, 5, 6, 7], [27, 28, 29, 30, 31]])
    for row, start in enumerate((3, 27)):
        whole[row, :, start : start + 5] = x[row]
    wanted = torch.stack([rotary(whole)[row, :, rows[row]] for row in range(2)])
    torch.testing.assert_close(rotary(x, rows), wanted)
    torch.testing.assert_close(rotary(x, rows[0])[0], wanted[0])


def test_rotary_is_computed_and_not_learned() -> None:
    rotary = RotaryEmbedding(8, 32)
    assert list(rotary.parameters()) == []
    assert rotary.state_dict() == {}
    assert rotary(torch.randn(1, 1, 4, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
