import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.model.attention import number_documents
from gpt.model.transformer import GPTConfig, GPTModel

END = 49  # the id of <|endoftext|>
CONFIG = GPTConfig(
    vocab_size=50, n_layer=2, n_head=2, n_embd=16, block_size=12, dropout=0.0, bias=True, position="rotary", tie_embeddings=True
)  # fmt: skip
VARIANTS = [
    replace(CONFIG, position=position, tie_embeddings=tied, bias=bias)
    for position, tied, bias in itertools.product(("learned", "sinusoidal", "rotary"), (True, False), (True, False))
]
# Every other choice on its own, then all that go together.
CHOICES = VARIANTS + [
    replace(CONFIG, **change)
    for change in (
        {"norm": "rmsnorm"},
        {"activation": "relu2"},
        {"activation": "swiglu"},
        {"n_head": 4, "n_kv_head": 2},
        {"n_kv_head": 1},
        {"qk_norm": True},
        {"init": "zero"},
        {"pad_vocab": 64},
        {"pad_vocab": 7, "tie_embeddings": False},
        {"norm": "rmsnorm", "activation": "relu2", "n_kv_head": 1, "qk_norm": True, "init": "zero",
         "bias": False, "tie_embeddings": False},
        {"norm": "rmsnorm", "activation": "swiglu", "n_kv_head": 1, "position": "learned"},
    )
]  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def describe(config: GPTConfig) -> str:
    tied = "tied" if config.tie_embeddings else "untied"
    changes = [
        f"{field.name} {getattr(config, field.name)}"
        for field in fields(config)
        if field.name not in ("position", "tie_embeddings", "bias")
        and getattr(config, field.name) != getattr(CONFIG, field.name)
    ]
    return "-".join([config.position, tied, "bias" if config.bias else "no bias", *changes])


def make(config: GPTConfig, seed: int = 0) -> GPTModel:
    model = GPTModel(config)
    model.init_weights(seed)
    return model.eval()


def make_large(config: GPTConfig) -> GPTModel:
    """Return a model with large weights, so that whatever can be seen shows."""
    model = make(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(seed))


def packed(ends: list[int], batch: int = 1) -> torch.Tensor:
    """Return windows (batch, 12) with <|endoftext|> at the positions `ends` and nowhere else."""
    x = tokens(batch, 12) % END
    x[:, ends] = END
    return x


def documents(ends: list[int]) -> Iterator[slice]:
    """Yield where the documents of such a window are, each with the <|endoftext|> before it."""
    borders = sorted({0, *ends, 12})
    return (slice(*pair) for pair in itertools.pairwise(borders))


def gradients(model: GPTModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients that `loss` leaves in a model's parameters."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_no_position_sees_a_later_one_through_the_whole_model(config: GPTConfig) -> None:
    model = make_large(config)
    x = tokens(2, 12)
    before = model(x)
    for position in range(12):
        changed = x.clone()
        changed[:, position] = (changed[:, position] + 1) % 50
        after = model(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.allclose(after[:, position:], before[:, position:])


@pytest.mark.parametrize("config", CHOICES, ids=describe)
@given(st.integers(1, 4), st.integers(1, 12))
@settings(deadline=None, max_examples=5)
def test_logits_do_not_depend_on_neighbours_or_on_what_follows(config: GPTConfig, batch: int, length: int) -> None:
    model = make_large(config)
    x = tokens(4, 12)
    whole = model(x)
    assert whole.shape == (4, 12, 50)
    torch.testing.assert_close(model(x[:batch, :length]), whole[:batch, :length], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_the_model_knows_the_order_of_tokens(position: str) -> None:
    model = make(replace(CONFIG, position=position))
    first, second = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[2, 1, 3]]))
    assert not torch.allclose(first[0, -1], second[0, -1])


@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_parameters_are_those_of_the_architecture(config: GPTConfig) -> None:
    C, V, bias = config.n_embd, config.padded_vocab_size, int(config.bias)
    norm = C * (2 if config.bias and config.norm == "layernorm" else 1)
    kv = C * config.n_kv_head // config.n_head if config.n_kv_head else C
    attention = 2 * (C * C + bias * C) + 2 * (C * kv + bias * kv) + (2 * C // config.n_head if config.qk_norm else 0)
    hidden = 48 if config.activation == "swiglu" else 4 * C  # 8 / 3 of 16, up to a multiple of 8
    expansions = 2 if config.activation == "swiglu" else 1
    feed_forward = expansions * (C * hidden + bias * hidden) + hidden * C + bias * C
    learned = config.block_size * C if config.position == "learned" else 0
    head = 0 if config.tie_embeddings else V * C
    model = GPTModel(config)
    blocks = config.n_layer * (2 * norm + attention + feed_forward)
    assert model.count_parameters() == V * C + learned + blocks + norm + head
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


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_weights_are_drawn_as_gpt2_draws_them(activation: Literal["gelu", "swiglu"]) -> None:
    config = replace(
        CONFIG, n_embd=128, n_layer=8, vocab_size=500, position="learned", tie_embeddings=False, qk_norm=True
    )
    config = replace(config, activation=activation)
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


@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_zero_init_begins_with_blocks_that_change_nothing(config: GPTConfig) -> None:
    model = make(replace(config, init="zero"))
    x = torch.randn(2, 12, 16)
    for block in model.trf_blocks:
        assert torch.equal(block(x), x)
    if not config.tie_embeddings:
        assert (model(tokens(2, 12)) == 0).all()  # an even guess


def test_zero_init_keeps_the_variance_of_what_goes_into_other_matrices() -> None:
    config = replace(CONFIG, n_embd=128, vocab_size=500, position="learned", activation="swiglu", init="zero")
    model = make(config)
    for name, parameter in model.named_parameters():
        if name.endswith("scale"):
            assert (parameter == 1).all(), name
        elif parameter.dim() == 1 or name.endswith("out_proj.weight"):
            assert (parameter == 0).all(), name
        else:
            expected = 0.02 if "emb" in name else parameter.shape[1] ** -0.5
            assert abs(parameter.std().item() / expected - 1) < 0.05, name


def test_zero_init_does_not_stay() -> None:
    """Projections that begin at zero still get a gradient, and what feeds them as soon as they have moved."""
    model = make(replace(CONFIG, init="zero", tie_embeddings=False)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        gradients(model, model(tokens(4, 12), tokens(4, 12, seed=2))[0])
        optimizer.step()
    still = [name for name, parameter in model.named_parameters() if parameter.dim() > 1 and not parameter.any()]
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert still == idle == []


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(5)
    first = make(CONFIG, seed=3).state_dict()
    torch.manual_seed(6)  # the global generator has no say
    second, other = make(CONFIG, seed=3).state_dict(), make(CONFIG, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["tok_emb.weight"], other["tok_emb.weight"])


@pytest.mark.parametrize("tied", [True, False])
def test_a_padded_vocabulary_computes_what_one_without_padding_does(tied: bool) -> None:
    plain = make(replace(CONFIG, tie_embeddings=tied))
    padded = make(replace(CONFIG, tie_embeddings=tied, pad_vocab=64))
    tables = ("tok_emb.weight", "out_head.weight")
    for name, weight in padded.state_dict().items():
        assert torch.equal(weight[:50] if name in tables else weight, plain.state_dict()[name])
        if name in tables:
            assert weight.shape == (64, 16)
            assert not weight[50:].any()
    with torch.no_grad():  # whatever stands there: it has no say
        for name, weight in padded.named_parameters():
            if name in tables:
                weight[50:] = 100.0
    x, targets = tokens(3, 12), tokens(3, 12, seed=2)
    assert padded(x).shape == (3, 12, 50)
    torch.testing.assert_close(padded(x), plain(x))
    torch.testing.assert_close(padded.token_nats(x, targets), plain.token_nats(x, targets))
    (loss, nats), (wanted_loss, wanted_nats) = padded(x, targets, scale=0.1), plain(x, targets, scale=0.1)
    torch.testing.assert_close((loss, nats), (wanted_loss, wanted_nats))
    found, wanted = gradients(padded, loss), gradients(plain, wanted_loss)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient[:50] if name in tables else gradient, wanted[name])
        if name in tables:
            assert not gradient[50:].any(), "no gradient, no change"


def test_a_fresh_model_predicts_about_evenly() -> None:
    model = make(replace(CONFIG, vocab_size=50))
    x = tokens(8, 13)
    loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    assert abs(loss.item() - math.log(50)) < 0.1


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_more_tokens_than_block_size_are_refused(position: str) -> None:
    model = make(replace(CONFIG, position=position))
    assert model(tokens(1, 12)).shape == (1, 12, 50)
    with pytest.raises(ValueError, match="13 tokens do not fit into block_size = 12"):
        model(tokens(1, 13))


@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_a_model_learns_a_short_text_by_heart(config: GPTConfig) -> None:
    model = make(config).train()
    x = tokens(1, 13)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(60):
        loss, _ = model(x[:, :-1], x[:, 1:], scale=1 / 12)
        if loss.item() < 0.2:
            return  # learned
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    pytest.fail("60 steps do not do")


def test_dropout_works_in_training_only() -> None:
    model = make(replace(CONFIG, dropout=0.5))
    x = tokens(1, 12)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_a_loss_from_targets_is_the_cross_entropy_of_the_logits(config: GPTConfig) -> None:
    model = make_large(config)
    x, targets = tokens(3, 12), tokens(3, 12, seed=2)
    logits = model(x)
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    wanted = nats / 36
    loss, ours = model(x, targets, scale=1 / 36)
    torch.testing.assert_close(ours, nats)
    torch.testing.assert_close(loss, wanted)
    expected = gradients(model, wanted)
    actual = gradients(model, loss)
    assert actual.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in actual.items():
        assert gradient.layout == torch.strided, name
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("targets", [True, False], ids=["loss", "logits"])
def test_a_tied_embeddings_gradient_is_dense_and_the_sum_of_both_uses(targets: bool) -> None:
    def loss(model: GPTModel) -> torch.Tensor:
        if targets:
            return model(x, y)[0]
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")

    tied, untied = make_large(CONFIG), GPTModel(replace(CONFIG, tie_embeddings=False)).eval()
    untied.load_state_dict(tied.state_dict() | {"out_head.weight": tied.tok_emb.weight})
    x, y = tokens(3, 12), tokens(3, 12, seed=2)
    of_tied, of_untied = gradients(tied, loss(tied)), gradients(untied, loss(untied))
    both = of_untied["tok_emb.weight"] + of_untied["out_head.weight"]
    assert of_tied["tok_emb.weight"].layout == torch.strided
    torch.testing.assert_close(of_tied["tok_emb.weight"], both, atol=1e-4, rtol=1e-4)
    for _ in range(2):  # micro-batches add up
        loss(tied).backward()
    assert tied.tok_emb.weight.grad is not None
    torch.testing.assert_close(tied.tok_emb.weight.grad, 3 * both, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("end_of_text", [None, END], ids=["stream", "documents"])
@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_checkpointed_activations_give_the_same_loss_and_gradients(config: GPTConfig, end_of_text: int | None) -> None:
    model = make_large(replace(config, dropout=0.3)).train()
    computed: list[torch.nn.Module] = []
    for block in model.trf_blocks:
        block.register_forward_pre_hook(lambda module, inputs: computed.append(module))
    results = []
    for model.checkpoint_activations in (False, True):
        computed.clear()
        torch.manual_seed(3)
        numbers = None if end_of_text is None else number_documents(packed([5, 9], 3), end_of_text)
        loss, _ = model(packed([5, 9], 3), tokens(3, 12, seed=2), documents=numbers)
        results.append((loss, gradients(model, loss), len(computed)))
    (loss, wanted, once), (same_loss, actual, twice) = results
    assert (once, twice) == (2, 4)  # forward only; forward and again in backward
    assert torch.equal(loss, same_loss)
    for name, gradient in wanted.items():
        assert torch.equal(actual[name], gradient), name


ROTARY = [config for config in CHOICES if config.position == "rotary"]
ENDS = st.lists(st.integers(0, 11), max_size=5, unique=True)


@pytest.mark.parametrize("config", ROTARY, ids=describe)
@given(ENDS)
@settings(deadline=None, max_examples=8)
def test_a_document_has_the_logits_in_a_packed_window_that_it_has_alone(config: GPTConfig, ends: list[int]) -> None:
    """Of rotary positions attention sees the distances only."""
    model = make_large(config)
    x = packed(ends, batch=2)
    whole = model(x, documents=number_documents(x, END))
    for document in documents(ends):
        torch.testing.assert_close(whole[:, document], model(x[:, document]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", ROTARY, ids=describe)
def test_a_packed_window_has_the_sum_of_its_documents_losses_and_gradients(config: GPTConfig) -> None:
    model = make_large(config)
    x, targets = packed([3, 4, 9]), tokens(1, 12, seed=2)
    loss, nats = model(x, targets, scale=0.1, documents=number_documents(x, END))
    actual = gradients(model, loss)
    alone = [model(x[:, document], targets[:, document], scale=0.1) for document in documents([3, 4, 9])]
    torch.testing.assert_close(nats, torch.stack([part for _, part in alone]).sum())
    expected = gradients(model, torch.stack([part for part, _ in alone]).sum())
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_no_document_sees_an_earlier_one_of_its_window(config: GPTConfig) -> None:
    model = make_large(config)
    ends = [4, 8]
    x = packed(ends)
    apart, across = model(x, documents=number_documents(x, END)), model(x)
    for document in documents(ends):
        # The <|endoftext|> before a document counts to it, and must stay one.
        for position in range(document.start + (document.start in ends), document.stop):
            changed = x.clone()
            changed[:, position] = (changed[:, position] + 1) % END
            after = model(changed, documents=number_documents(changed, END))
            assert torch.equal(after[:, :position], apart[:, :position])
            assert not torch.allclose(after[:, position : document.stop], apart[:, position : document.stop])
            assert torch.equal(after[:, document.stop :], apart[:, document.stop :])
            if document.stop < 12:
                assert not torch.allclose(model(changed)[:, document.stop :], across[:, document.stop :])


@pytest.mark.parametrize("config", CHOICES, ids=describe)
def test_a_window_of_one_document_is_read_as_without_boundaries(config: GPTConfig) -> None:
    model = make_large(config)
    for ends in ([], [0]):
        x = packed(ends, batch=2)
        torch.testing.assert_close(model(x, documents=number_documents(x, END)), model(x), atol=1e-4, rtol=1e-4)


def test_defaults_are_gpt2s_choices() -> None:
    config = GPTConfig(vocab_size=50257, n_layer=12, n_head=12, n_embd=768, block_size=1024)
    assert (config.position, config.norm, config.activation, config.init) == ("learned", "layernorm", "gelu", "gpt2")
    assert config.bias and config.tie_embeddings and not config.qk_norm
    assert config.kv_heads == 12 and config.dropout == 0
    with torch.device("meta"):
        assert GPTModel(config).count_parameters() == 124_439_808  # GPT-2 small's


OLD = {"vocab_size": 50, "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "dropout": 0.0}


@pytest.mark.parametrize(
    ("choices", "logits"),
    [
        (
            {"bias": True, "position": "learned", "tie_embeddings": True},
            [[0.108730, 0.229470, 0.126389], [-0.003679, 0.031489, 0.174224], [0.007907, 0.009106, -0.028759]],
        ),
        (
            {"bias": False, "position": "rotary", "tie_embeddings": False},
            [[0.060695, -0.138600, -0.007062], [-0.053887, -0.061070, 0.051024], [-0.076682, 0.131140, -0.040409]],
        ),
    ],
    ids=["learned", "rotary"],
)  # fmt: skip
def test_a_config_of_the_first_version_makes_the_model_it_made(
    choices: dict[str, Any], logits: list[list[float]]
) -> None:
    """Config files had nine keys then; the logits are what that version computed."""
    model = make(GPTConfig(**OLD, **choices))
    names = {name for name in model.state_dict() if "trf_blocks" not in name or name.startswith("trf_blocks.1.")}
    linear = ["att.W_query", "att.W_key", "att.W_value", "att.out_proj", "ff.expand", "ff.out_proj"]
    weights = [f"trf_blocks.1.{name}.weight" for name in linear] + ["tok_emb.weight"]
    weights += [f"{name}.scale" for name in ("trf_blocks.1.norm1", "trf_blocks.1.norm2", "final_norm")]
    if choices["bias"]:
        weights += [f"trf_blocks.1.{name}.bias" for name in linear]
        weights += [f"{name}.shift" for name in ("trf_blocks.1.norm1", "trf_blocks.1.norm2", "final_norm")]
    assert names == {*weights, "pos_emb.weight" if choices["position"] == "learned" else "out_head.weight"}
    torch.testing.assert_close(model(torch.tensor([[1, 2, 3]]))[0, :, :3], torch.tensor(logits), atol=1e-6, rtol=1e-4)


def test_a_config_survives_json() -> None:
    for config in CHOICES:
        assert GPTConfig(**json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("choice", [{"position": "Rotary"}, {"norm": "x"}, {"activation": "silu"}, {"init": "x"}])
def test_a_choice_that_does_not_exist_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is none of"):
        replace(CONFIG, **choice)


def test_rotary_positions_of_an_odd_head_size_are_refused() -> None:
    with pytest.raises(ValueError, match="even head size"):
        replace(CONFIG, n_embd=CONFIG.n_head * 3, position="rotary")
