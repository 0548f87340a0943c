"""The four attentions: the book's printed numbers, each one against the one before it, and nothing from the future."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gpt.model.attention import (
    CausalAttention,
    MultiHeadAttention,
    SelfAttention,
    SimplifiedSelfAttention,
    document_mask,
    number_documents,
)
from gpt.model.layers import RotaryEmbedding

# "Your journey starts with one step" in three made-up dimensions (section 3.3.1).
BOOK = torch.tensor(
    [[0.43, 0.15, 0.89], [0.55, 0.87, 0.66], [0.57, 0.85, 0.64], [0.22, 0.58, 0.33], [0.77, 0.25, 0.10], [0.05, 0.80, 0.55]]
)  # fmt: skip
BOOK_BATCH = torch.stack((BOOK, BOOK))
OPTIONS: list[dict[str, Any]] = [
    {},
    {"qkv_bias": True},
    {"num_kv_heads": 1},
    {"num_kv_heads": 2, "qkv_bias": True},
    {"qk_norm": True},
    {"rotary": True},
    {"num_kv_heads": 2, "qk_norm": True, "rotary": True},
    {"out_bias": False},
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def describe(options: dict[str, Any]) -> str:
    return "-".join(f"{name} {value}" for name, value in options.items()) or "book"


def make(d_in: int = 12, d_out: int = 16, heads: int = 4, length: int = 10, **options: Any) -> MultiHeadAttention:
    torch.manual_seed(0)
    if options.get("rotary") is True:
        options["rotary"] = RotaryEmbedding(d_out // heads, length)
    attention = MultiHeadAttention(d_in, d_out, length, 0.0, heads, **options)
    for name, parameter in attention.named_parameters():
        if name.endswith("scale"):  # of a normalisation: as if learned
            nn.init.uniform_(parameter, 0.5, 1.5)
    return attention.eval()


def explicit(attention: MultiHeadAttention, x: torch.Tensor) -> torch.Tensor:
    """Attention as the book writes it: one head after the other, with a mask and a softmax."""
    length, size = x.shape[1], attention.head_dim
    mask = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
    contexts = []
    for head in range(attention.num_heads):
        shared = head // (attention.num_heads // attention.num_kv_heads)
        queries = attention.W_query(x)[..., head * size : (head + 1) * size]
        keys, values = (
            layer(x)[..., shared * size : (shared + 1) * size] for layer in (attention.W_key, attention.W_value)
        )
        if attention.query_norm is not None and attention.key_norm is not None:
            queries, keys = attention.query_norm(queries), attention.key_norm(keys)
        if attention.rotary is not None:
            queries, keys = attention.rotary(queries[:, None])[:, 0], attention.rotary(keys[:, None])[:, 0]
        scores = queries @ keys.transpose(1, 2) / size**0.5
        contexts.append(torch.softmax(scores.masked_fill(mask, -torch.inf), dim=-1) @ values)
    return attention.out_proj(torch.cat(contexts, dim=-1))


def as_printed(actual: torch.Tensor, printed: list[list[float]]) -> None:
    torch.testing.assert_close(actual, torch.tensor(printed), atol=0.501e-4, rtol=0)


def sees_no_later_position(attention: nn.Module, x: torch.Tensor) -> None:
    before = attention(x)
    for position in range(x.shape[1]):
        changed = x.clone()
        changed[:, position] += 10
        after = attention(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        for seeing in range(position, x.shape[1]):
            assert not torch.allclose(after[:, seeing], before[:, seeing])


# The book's numbers (figures: chapter 3 of the book, sections in the names)


def test_section_3_3_simplified_attention_gives_the_books_numbers() -> None:
    context, weights = SimplifiedSelfAttention()(BOOK, return_weights=True)
    as_printed(
        weights,
        [
            [0.2098, 0.2006, 0.1981, 0.1242, 0.1220, 0.1452],
            [0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581],
            [0.1390, 0.2369, 0.2326, 0.1242, 0.1108, 0.1565],
            [0.1435, 0.2074, 0.2046, 0.1462, 0.1263, 0.1720],
            [0.1526, 0.1958, 0.1975, 0.1367, 0.1879, 0.1295],
            [0.1385, 0.2184, 0.2128, 0.1420, 0.0988, 0.1896],
        ],
    )
    as_printed(
        context,
        [
            [0.4421, 0.5931, 0.5790],
            [0.4419, 0.6515, 0.5683],
            [0.4431, 0.6496, 0.5671],
            [0.4304, 0.6298, 0.5510],
            [0.4671, 0.5910, 0.5266],
            [0.4177, 0.6503, 0.5645],
        ],
    )


def test_section_3_4_self_attention_gives_the_books_numbers() -> None:
    torch.manual_seed(789)
    context, weights = SelfAttention(3, 2)(BOOK, return_weights=True)
    as_printed(
        context,
        [
            [-0.0739, 0.0713],
            [-0.0748, 0.0703],
            [-0.0749, 0.0702],
            [-0.0760, 0.0685],
            [-0.0763, 0.0679],
            [-0.0754, 0.0693],
        ],
    )
    as_printed(
        weights,
        [
            [0.1921, 0.1646, 0.1652, 0.1550, 0.1721, 0.1510],
            [0.2041, 0.1659, 0.1662, 0.1496, 0.1665, 0.1477],
            [0.2036, 0.1659, 0.1662, 0.1498, 0.1664, 0.1480],
            [0.1869, 0.1667, 0.1668, 0.1571, 0.1661, 0.1564],
            [0.1830, 0.1669, 0.1670, 0.1588, 0.1658, 0.1585],
            [0.1935, 0.1663, 0.1666, 0.1542, 0.1666, 0.1529],
        ],
    )


def test_section_3_5_causal_weights_are_the_books() -> None:
    torch.manual_seed(789)
    _, weights = CausalAttention(3, 2, context_length=6, dropout=0.0)(BOOK_BATCH, return_weights=True)
    for row in weights:
        as_printed(
            row,
            [
                [1.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
                [0.5517, 0.4483, 0.0000, 0.0000, 0.0000, 0.0000],
                [0.3800, 0.3097, 0.3103, 0.0000, 0.0000, 0.0000],
                [0.2758, 0.2460, 0.2462, 0.2319, 0.0000, 0.0000],
                [0.2175, 0.1983, 0.1984, 0.1888, 0.1971, 0.0000],
                [0.1935, 0.1663, 0.1666, 0.1542, 0.1666, 0.1529],
            ],
        )


def test_section_3_5_and_3_6_1_causal_heads_give_the_books_numbers() -> None:
    torch.manual_seed(123)
    heads = [CausalAttention(3, 2, context_length=6, dropout=0.0) for _ in range(2)]
    for row in torch.cat([head(BOOK_BATCH) for head in heads], dim=-1):
        as_printed(
            row,
            [
                [-0.4519, 0.2216, 0.4772, 0.1063],
                [-0.5874, 0.0058, 0.5891, 0.3257],
                [-0.6300, -0.0632, 0.6202, 0.3860],
                [-0.5675, -0.0843, 0.5478, 0.3589],
                [-0.5526, -0.0981, 0.5321, 0.3428],
                [-0.5299, -0.1081, 0.5077, 0.3493],
            ],
        )


def test_section_3_6_2_multi_head_attention_gives_the_books_numbers() -> None:
    torch.manual_seed(123)
    attention = MultiHeadAttention(3, 2, context_length=6, dropout=0.0, num_heads=2)
    for row in attention(BOOK_BATCH):
        as_printed(
            row,
            [
                [0.3190, 0.4858],
                [0.2943, 0.3897],
                [0.2856, 0.3593],
                [0.2693, 0.3873],
                [0.2639, 0.3928],
                [0.2575, 0.4028],
            ],
        )


# Each is the one before it and one idea more


def test_self_attention_with_identity_projections_is_the_simplified_one_scaled() -> None:
    attention = SelfAttention(3, 3)
    with torch.no_grad():
        for layer in (attention.W_query, attention.W_key, attention.W_value):
            nn.init.eye_(layer.weight)
        attention.W_query.weight *= 3**0.5  # undoes the scale
    torch.testing.assert_close(attention(BOOK), SimplifiedSelfAttention()(BOOK))


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 8), st.integers(1, 8), st.booleans())
@settings(deadline=None, max_examples=40)
def test_causal_attention_is_self_attention_over_what_came_before(
    batch: int, length: int, d_in: int, d_out: int, bias: bool
) -> None:
    full, causal = SelfAttention(d_in, d_out, bias), CausalAttention(d_in, d_out, 12, 0.0, bias)
    causal.load_state_dict(full.state_dict())
    x = torch.randn(batch, length, d_in)
    context = causal(x)
    for end in range(1, length + 1):
        torch.testing.assert_close(context[:, end - 1], full(x[:, :end])[:, -1], atol=1e-6, rtol=1e-5)


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 6), st.integers(1, 5), st.integers(1, 8), st.booleans())
@settings(deadline=None, max_examples=40)
def test_multi_head_attention_is_causal_heads_side_by_side_and_a_projection(
    batch: int, length: int, heads: int, size: int, d_in: int, bias: bool
) -> None:
    attention = MultiHeadAttention(d_in, heads * size, 12, 0.0, heads, bias)
    stack = [CausalAttention(d_in, size, 12, 0.0, bias) for _ in range(heads)]
    with torch.no_grad():
        for name in ("W_query", "W_key", "W_value"):
            whole, parts = attention.get_submodule(name), [head.get_submodule(name) for head in stack]
            for key, tensor in whole.state_dict().items():
                tensor.copy_(torch.cat([part.state_dict()[key] for part in parts]))
    x = torch.randn(batch, length, d_in)
    expected = attention.out_proj(torch.cat([head(x) for head in stack], dim=-1))
    torch.testing.assert_close(attention(x), expected, atol=1e-6, rtol=1e-5)


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 8), st.integers(1, 8), st.booleans())
@settings(deadline=None, max_examples=40)
def test_one_head_is_causal_attention_and_a_projection(
    batch: int, length: int, d_in: int, d_out: int, bias: bool
) -> None:
    causal, multi = CausalAttention(d_in, d_out, 12, 0.0, bias), MultiHeadAttention(d_in, d_out, 12, 0.0, 1, bias)
    missing = multi.load_state_dict(causal.state_dict(), strict=False).missing_keys
    assert missing == ["out_proj.weight", "out_proj.bias"]
    x = torch.randn(batch, length, d_in)
    torch.testing.assert_close(multi(x), multi.out_proj(causal(x)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("attention", [SimplifiedSelfAttention(), SelfAttention(3, 5)])
def test_the_first_two_take_a_sequence_with_or_without_a_batch(attention: nn.Module) -> None:
    alone, alone_weights = attention(BOOK, return_weights=True)
    batch, batch_weights = attention(BOOK_BATCH, return_weights=True)
    for row in range(2):
        torch.testing.assert_close(batch[row], alone)
        torch.testing.assert_close(batch_weights[row], alone_weights)


@pytest.mark.parametrize("attention", [SimplifiedSelfAttention(), SelfAttention(3, 5), CausalAttention(3, 5, 6, 0.0)])
def test_weights_are_shares_and_mix_the_values(attention: nn.Module) -> None:
    x = torch.randn(2, 6, 3)
    context, weights = attention(x, return_weights=True)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 6))
    values = attention.W_value(x) if isinstance(attention, SelfAttention | CausalAttention) else x
    torch.testing.assert_close(context, weights @ values)
    assert torch.equal(attention(x), context)


def test_order_means_nothing_without_a_mask() -> None:
    order = torch.randperm(6)
    for attention in (SimplifiedSelfAttention(), SelfAttention(3, 5)):
        torch.testing.assert_close(attention(BOOK[order]), attention(BOOK)[order])


# The future


def test_causal_attention_sees_no_later_position() -> None:
    torch.manual_seed(0)
    sees_no_later_position(CausalAttention(12, 8, 10, 0.0), torch.randn(2, 10, 12))


@pytest.mark.parametrize("options", OPTIONS, ids=describe)
@pytest.mark.parametrize("weighted", [False, True], ids=["fused", "explicit"])
def test_no_position_sees_a_later_one(options: dict[str, Any], weighted: bool) -> None:
    attention = make(**options)

    class Output(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return attention(x, return_weights=True)[0] if weighted else attention(x)

    sees_no_later_position(Output(), torch.randn(2, 10, 12))


# The fused form, and what goes beyond the book


@pytest.mark.parametrize("options", OPTIONS, ids=describe)
@pytest.mark.parametrize("length", [1, 2, 10])
def test_the_fused_form_is_the_masked_softmax_of_the_book(options: dict[str, Any], length: int) -> None:
    attention = make(**options)
    assert (attention.W_query.bias is not None) == options.get("qkv_bias", False)
    assert (attention.out_proj.bias is not None) == options.get("out_bias", True)
    x = torch.randn(3, length, 12)
    torch.testing.assert_close(attention(x), explicit(attention, x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=describe)
def test_asking_for_weights_changes_no_output_and_no_gradient(options: dict[str, Any]) -> None:
    attention = make(**options)
    x = torch.randn(3, 7, 12)
    fused = attention(x)
    context, weights = attention(x, return_weights=True)
    torch.testing.assert_close(context, fused, atol=1e-6, rtol=1e-5)
    assert weights.shape == (3, 4, 7, 7)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 7))
    assert torch.equal(weights.tril(), weights)
    parameters = list(attention.parameters())
    pull = torch.randn_like(fused)
    for ours, theirs in zip(
        torch.autograd.grad(context, parameters, pull), torch.autograd.grad(fused, parameters, pull), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_document_mask_lets_a_token_look_back_to_the_end_of_text_before_its_document() -> None:
    allowed = document_mask(number_documents(torch.tensor([[5, 5, 9, 5, 5, 9, 9, 5]]), end_of_text=9))
    assert allowed.shape == (1, 1, 8, 8)
    assert allowed.dtype == torch.bool
    assert [row.nonzero().flatten().tolist() for row in allowed[0, 0]] == [
        [0], [0, 1],  # the end of a document that began before the window
        [2], [2, 3], [2, 3, 4],
        [5],  # an empty document
        [6], [6, 7],
    ]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=describe)
def test_both_forms_look_where_the_mask_lets_them(options: dict[str, Any]) -> None:
    attention = make(**options)
    x, mask = torch.randn(3, 10, 12), document_mask(number_documents(torch.randint(0, 4, (3, 10)), end_of_text=0))
    context, weights = attention(x, return_weights=True, mask=mask)
    torch.testing.assert_close(attention(x, mask=mask), context, atol=1e-6, rtol=1e-5)
    assert torch.equal(weights > 0, mask.expand(3, 4, 10, 10))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=25)
def test_grouped_queries_are_full_heads_with_repeated_keys_and_values(
    groups: int, shared: int, half_size: int, rotary: bool, qk_norm: bool
) -> None:
    heads, size = groups * shared, 2 * half_size
    options: dict[str, Any] = {"rotary": rotary or None, "qk_norm": qk_norm, "qkv_bias": True}
    grouped = make(d_out=heads * size, heads=heads, num_kv_heads=groups, **options)
    full = make(d_out=heads * size, heads=heads, **options)
    state = grouped.state_dict()
    for name in ("W_key", "W_value"):
        for key in (f"{name}.weight", f"{name}.bias"):
            by_head = state[key].view(groups, size, -1).repeat_interleave(shared, dim=0)
            state[key] = by_head.reshape(full.state_dict()[key].shape)
    full.load_state_dict(state)
    x = torch.randn(2, 9, 12)
    torch.testing.assert_close(grouped(x), full(x), atol=1e-6, rtol=1e-5)
    assert grouped.W_key.weight.numel() * shared == full.W_key.weight.numel()


def test_qk_norm_bounds_the_scores_however_large_the_input() -> None:
    x = torch.randn(2, 10, 12)
    normed, plain = make(qk_norm=True), make()
    _, weights = normed(10 * x, return_weights=True)
    _, of_large = normed(1000 * x, return_weights=True)
    torch.testing.assert_close(of_large, weights, atol=1e-3, rtol=1e-3)
    assert plain(1000 * x, return_weights=True)[1].amax(dim=-1).mean() > 0.9  # without it a softmax of one-hots


def test_rotary_lets_attention_tell_positions_apart() -> None:
    word = torch.randn(1, 1, 12).expand(1, 8, 12)  # the same word eight times
    _, plain = make()(word, return_weights=True)
    _, turned = make(rotary=True)(word, return_weights=True)
    torch.testing.assert_close(plain[0, :, -1], torch.full((4, 8), 1 / 8))
    assert turned[0, :, -1].std(dim=-1).max() > 1e-3
    # What counts is the distance: ratios of weights at distances 0 and 1 are the same for every query.
    ratios = turned[0].diagonal(dim1=-2, dim2=-1)[:, 1:] / turned[0].diagonal(-1, dim1=-2, dim2=-1)
    torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios), atol=1e-4, rtol=1e-4)


# Dropout, gradients, mistakes


def test_dropout_hides_weights_in_training_only() -> None:
    torch.manual_seed(0)
    attention = CausalAttention(8, 8, 32, 0.25).eval()
    x = torch.randn(4, 32, 8)
    _, weights = attention(x, return_weights=True)
    assert torch.equal(attention(x), attention(x))
    _, dropped = attention.train()(x, return_weights=True)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], weights[kept] / 0.75)
    seen = torch.ones(32, 32).tril().bool().expand(4, 32, 32)
    assert 0.70 < kept[seen].float().mean() < 0.80


@pytest.mark.parametrize("weighted", [False, True], ids=["fused", "explicit"])
def test_dropout_of_heads_works_in_training_only(weighted: bool) -> None:
    def output(x: torch.Tensor) -> torch.Tensor:
        return attention(x, return_weights=True)[0] if weighted else attention(x)

    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 8, 6, 0.5, 2).train()
    x = torch.randn(1, 6, 8)
    assert not torch.equal(output(x), output(x))
    whole = attention(x, return_weights=True)[1]
    torch.testing.assert_close(whole.sum(dim=-1), torch.ones(1, 2, 6))  # the weights before dropout
    mean = output(x.expand(4000, 6, 8)).mean(dim=0, keepdim=True)
    attention.eval()
    assert torch.equal(output(x), output(x))
    torch.testing.assert_close(mean, output(x), atol=0.05, rtol=0)  # on average, training gives what inference gives


@pytest.mark.parametrize("options", OPTIONS, ids=describe)
def test_it_gives_every_weight_a_gradient(options: dict[str, Any]) -> None:
    attention = make(**options)
    attention(torch.randn(2, 10, 12)).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"d_out \(16\) must be divisible by num_heads \(3\)"):
        make(heads=3)
    with pytest.raises(ValueError, match=r"num_heads \(4\) must be divisible by num_kv_heads \(3\)"):
        make(num_kv_heads=3)
    with pytest.raises(ValueError, match=r"num_heads \(4\) must be divisible by num_kv_heads \(8\)"):
        make(num_kv_heads=8)


def test_masks_and_angles_are_no_part_of_a_saved_model() -> None:
    assert set(CausalAttention(3, 2, 6, 0.0).state_dict()) == {"W_query.weight", "W_key.weight", "W_value.weight"}
    assert not any(name.startswith("rotary") for name in make(rotary=True).state_dict())
