import math

import pytest
import torch
from torch import nn

from gpt.model.attention import MultiHeadAttention
from gpt.model.layers import RotaryEmbedding


def make(d_in: int = 12, d_out: int = 16, heads: int = 4, length: int = 10, **options: object) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(d_in, d_out, length, 0.0, heads, **options).eval()  # pyright: ignore[reportArgumentType]


def explicit(attention: MultiHeadAttention, x: torch.Tensor) -> torch.Tensor:
    """Attention as the book writes it: one head after the other, with a mask and a softmax."""
    length, size = x.shape[1], attention.head_dim
    mask = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * size, (head + 1) * size)
        queries, keys, values = (
            layer(x)[..., part] for layer in (attention.W_query, attention.W_key, attention.W_value)
        )
        if attention.rotary is not None:
            queries, keys = attention.rotary(queries[:, None])[:, 0], attention.rotary(keys[:, None])[:, 0]
        scores = queries @ keys.transpose(1, 2) / math.sqrt(size)
        heads.append(torch.softmax(scores.masked_fill(mask, -torch.inf), dim=-1) @ values)
    return attention.out_proj(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("length", [1, 2, 10])
def test_it_is_the_masked_softmax_of_the_book(heads: int, bias: bool, rotary: bool, length: int) -> None:
    positions = RotaryEmbedding(16 // heads, 10) if rotary else None
    attention = make(heads=heads, qkv_bias=bias, rotary=positions)
    assert (attention.W_query.bias is not None) == bias
    x = torch.randn(3, length, 12)
    torch.testing.assert_close(attention(x), explicit(attention, x), atol=1e-6, rtol=1e-5)


def test_no_position_sees_a_later_one() -> None:
    attention = make()
    x = torch.randn(2, 10, 12)
    before = attention(x)
    for position in range(10):
        changed = x.clone()
        changed[:, position] += 10
        after = attention(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.allclose(after[:, position:], before[:, position:])


def test_dropout_works_in_training_only() -> None:
    attention = MultiHeadAttention(8, 8, 6, 0.5, 2)
    x = torch.randn(1, 6, 8)
    attention.train()
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"d_out \(16\) must be divisible by num_heads \(3\)"):
        make(heads=3)


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


def test_rotary_turns_and_does_not_stretch() -> None:
    rotary = RotaryEmbedding(8, 32)
    x = torch.randn(2, 3, 20, 8)
    turned = rotary(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], x[:, :, 1])


def test_rotary_is_computed_and_not_learned() -> None:
    rotary = RotaryEmbedding(8, 32)
    assert list(rotary.parameters()) == []
    assert rotary.state_dict() == {}
    assert rotary(torch.randn(1, 1, 4, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_it_gives_every_weight_a_gradient() -> None:
    attention = make(qkv_bias=False)
    attention(torch.randn(2, 10, 12)).square().sum().backward()
    for parameter in attention.parameters():
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
