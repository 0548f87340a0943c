from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.finetuning.data.encoded import Encoded, join
from gpt.finetuning.data.packing import PackedRows, pack, shuffled
from gpt.finetuning.data.templates import Tokens
from gpt.model.transformer import GPTConfig, GPTModel

VOCABULARY, ROOM = 30, 16
LENGTHS = st.lists(st.integers(1, ROOM), min_size=1, max_size=40)


def make_data(lengths: list[int], seed: int = 0) -> Encoded:
    random = np.random.default_rng(seed)
    sequences = []
    for length in lengths:
        mask = random.random(length + 1) < 0.5
        mask[0], mask[-1] = False, True
        sequences.append(Tokens(random.integers(0, VOCABULARY, length + 1).astype(np.int32), mask))
    return join(sequences, [])


@given(LENGTHS)
def test_every_sequence_is_in_one_row_and_no_row_is_too_full(lengths: list[int]) -> None:
    rows = pack(np.array(lengths), ROOM)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= ROOM for row in rows)
    # Best fit: of any two rows the shorter one would not have fitted into the other.
    used = sorted(sum(lengths[number] for number in row) for row in rows)
    assert len(used) < 2 or used[0] + used[1] > ROOM


def test_it_wastes_next_to_nothing() -> None:
    lengths = np.random.default_rng(1).integers(1, 129, 5000)
    assert lengths.sum() / (len(pack(lengths, 128)) * 128) > 0.98


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal"])
@pytest.mark.parametrize("tied", [False, True])
def test_packed_sequences_have_the_loss_and_gradient_that_they_have_alone(position: Any, tied: bool) -> None:
    model = GPTModel(GPTConfig(VOCABULARY, 2, 2, 16, ROOM, position=position, qk_norm=True, tie_embeddings=tied))
    model.init_weights(3)
    data = make_data([3, 7, 5, 16, 2, 9, 1])
    rows = PackedRows(data, ROOM)
    assert len(rows) < len(data)
    loss, nats = model(**rows.tensors(range(len(rows))))
    loss.backward()
    packed = {name: each.grad.to_dense().clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    alone = torch.zeros(())
    for number in range(len(data)):
        sequence = data[number]
        ids = torch.from_numpy(sequence.ids.astype(np.int64))[None]
        logits = model(ids[:, :-1])[0]
        wanted = torch.from_numpy(sequence.mask[1:])
        alone = alone + torch.nn.functional.cross_entropy(logits[wanted], ids[0, 1:][wanted], reduction="sum")
    alone.backward()
    assert float(nats) == pytest.approx(float(alone.detach()), rel=1e-5)
    assert rows.targets.sum() == data.mask.sum()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(packed[name], parameter.grad.to_dense(), atol=1e-4, rtol=1e-4, msg=name)


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=50)
def test_an_epoch_has_each_example_once(size: int, batch_size: int, seed: int) -> None:
    numbers = np.concatenate([shuffled(step, batch_size, size, seed) for step in range(3 * size)])
    for epoch in range(3):
        assert sorted(numbers[epoch * size : (epoch + 1) * size]) == list(range(size))
    if size > 10:
        assert numbers[:size].tolist() != numbers[size : 2 * size].tolist()
