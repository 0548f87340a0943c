from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import torch

from gpt import paths
from gpt.evaluation.attention import START, attention_weights, describe_attention, spread, token_names
from gpt.model.attention import MultiHeadAttention
from gpt.model.storage import load_model
from gpt.model.transformer import GPTConfig, GPTModel

BYTES = tiktoken.Encoding(
    "bytes",
    pat_str=r"(?s).",
    mergeable_ranks={bytes([n]): n for n in range(256)},
    special_tokens={"<|endoftext|>": 256},
)


def make(n_layer: int = 2, n_head: int = 2, block_size: int = 16) -> GPTModel:
    model = GPTModel(GPTConfig(257, n_layer, n_head, n_embd=8 * n_head, block_size=block_size, qk_norm=True))
    model.init_weights(0)
    return model.eval()


def test_the_weights_are_those_of_the_models_own_pass() -> None:
    model, tokens = make(), [256, 1, 2, 3, 4]
    mixed: list[torch.Tensor] = []
    last = model.trf_blocks[-1].get_submodule("att")
    assert isinstance(last, MultiHeadAttention)
    handle = last.register_forward_hook(lambda _, given, out: mixed.extend([given[0], torch.as_tensor(out)]))
    with torch.no_grad():
        model(torch.tensor([tokens]))
        handle.remove()
        weights = attention_weights(model, tokens)[-1]  # (n_head, T, T)
        x, out = mixed
        values = last.W_value(x).view(1, 5, 2, 8).transpose(1, 2)
        expected = last.out_proj((weights @ values).transpose(1, 2).reshape(1, 5, -1))
    torch.testing.assert_close(out, expected)


def test_a_map_has_a_row_for_each_token_that_adds_up_to_one() -> None:
    found = describe_attention(make(), BYTES, "a b\nc")
    assert found["tokens"] == [START, "a", "␣", "b", "↵", "c"]
    assert [(each["layer"], each["head"]) for each in found["maps"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for each in found["maps"]:
        assert [len(row) for row in each["weights"]] == [1, 2, 3, 4, 5, 6]
        assert all(sum(row) == pytest.approx(1, abs=0.01) for row in each["weights"])


def test_only_as_many_maps_are_kept_as_can_be_read() -> None:
    found = describe_attention(make(n_layer=9, n_head=8), BYTES, "x" * 100)
    assert len(found["tokens"]) == 16, "the context"
    assert len(found["maps"]) == 4 * 6
    assert {each["layer"] for each in found["maps"]} >= {1, 9}
    assert len(describe_attention(make(block_size=64), BYTES, "x" * 100)["tokens"]) == 24
    assert spread(1, 4) == [0]
    assert spread(3, 4) == [0, 1, 2]


def test_bytes_that_are_part_of_a_letter_are_hexadecimal() -> None:
    assert token_names(BYTES, [256, *"é\t".encode()]) == [START, "c3", "a9", "→"]
    assert describe_attention(make(), BYTES, "é")["tokens"] == [START, "c3", "a9"]


def test_any_architecture_and_tokenizer_has_maps(trained_project: Path, copy_project: Callable[..., Path]) -> None:
    copy_project(trained_project)
    model, encoding = load_model(paths.BASE_MODEL, torch.device("cpu"))
    assert describe_attention(model, encoding, "to be")["tokens"] == [START, "t", "o", "␣", "b", "e"]
    grouped = GPTModel(GPTConfig(257, 1, 4, n_embd=32, block_size=8, n_kv_head=2, position="rotary", norm="rmsnorm"))
    grouped.init_weights(0)
    assert len(describe_attention(grouped.eval(), BYTES, "ab")["maps"]) == 4
