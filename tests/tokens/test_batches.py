from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.files import write_json
from gpt.tokens.batches import Batches, permute, round_keys
from gpt.tokens.shards import TokenReader

SEEDS = st.integers(0, 2**63 - 1)


def count_up(folder: Path, tokens: int, shard_tokens: int = 100) -> TokenReader:
    """Return a split whose token at position n is n."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for number, start in enumerate(range(0, tokens, shard_tokens)):
        piece = np.arange(start, min(start + shard_tokens, tokens), dtype="<u4")
        piece.tofile(folder / f"train_{number:05d}.bin")
        listed.append({"file": f"train_{number:05d}.bin", "source": "made-up", "tokens": len(piece), "sha256": ""})
    entry = {"tokens": tokens, "documents": 1, "bytes": tokens, "documents_sha256": "", "shards": listed}
    index = {"dtype": "<u4", "vocab_size": tokens, "end_of_text": 0, "tokenizer_id": "", "splits": {"train": entry}}
    write_json(folder / "index.json", index)
    return TokenReader(folder, "train")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> TokenReader:
    return count_up(tmp_path_factory.mktemp("tokens"), tokens=1003)


@given(st.integers(1, 5000), SEEDS, st.integers(0, 1000))
@settings(deadline=None, max_examples=100)
def test_a_permutation_maps_every_index_to_one_of_its_own(size: int, seed: int, epoch: int) -> None:
    found = permute(np.arange(size), size, round_keys([seed], epoch))
    assert sorted(found.tolist()) == list(range(size))


@given(st.integers(1, 2**62), SEEDS, st.lists(st.integers(0, 2**62), min_size=1, max_size=20, unique=True))
@settings(deadline=None, max_examples=100)
def test_a_permutation_is_computed_for_one_index_at_a_time(size: int, seed: int, indices: list[int]) -> None:
    """However large the data: a table of 2**62 entries would not fit anywhere."""
    indices = sorted({index % size for index in indices})
    key = round_keys([seed], 0)
    together = permute(np.array(indices), size, key).tolist()
    assert [int(permute(np.array([index]), size, key)[0]) for index in indices] == together
    assert len(set(together)) == len(indices)
    assert all(0 <= place < size for place in together)


def test_a_permutation_looks_random() -> None:
    counts = Counter(int(permute(np.arange(3), 3, round_keys([seed], 0)) @ [9, 3, 1]) for seed in range(3000))
    assert len(counts) == 6
    assert all(350 < count < 650 for count in counts.values())  # 500 expected, standard deviation 20


@given(st.data(), st.integers(2, 40), st.integers(1, 9), SEEDS, st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_every_window_is_seen_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    block_size: int,
    batch_size: int,
    seed: int,
    epoch: int,
) -> None:
    tokens = data.draw(st.integers(2 * block_size, 400))
    reader = count_up(tmp_path_factory.mktemp("tokens"), tokens)
    batches = Batches(reader, block_size, batch_size, seed)
    windows = batches._streams[0].windows
    first = epoch * windows
    steps = range(first // batch_size, (first + windows - 1) // batch_size + 1)
    starts = np.concatenate([batches.starts(step) for step in steps])[first - steps[0] * batch_size :][:windows]
    offset = starts.min()
    assert 0 <= offset < block_size
    assert sorted(starts.tolist()) == [offset + number * block_size for number in range(windows)]
    assert starts.max() + block_size + 1 <= tokens
    assert tokens - windows * block_size < 2 * block_size  # no more is left out than the offset needs


@given(SEEDS, st.integers(1, 12), st.lists(st.integers(0, 100), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_a_batch_is_a_function_of_seed_and_step(
    reader: TokenReader, seed: int, batch_size: int, steps: list[int]
) -> None:
    batches = Batches(reader, 16, batch_size, seed)
    in_order = {step: batches.starts(step).tolist() for step in range(max(steps) + 1)}
    for step in steps:  # in any order, by a reader of its own, and once more
        assert Batches(reader, 16, batch_size, seed).starts(step).tolist() == in_order[step]
        assert batches.starts(step).tolist() == in_order[step]


def test_a_late_step_costs_what_the_first_does(reader: TokenReader) -> None:
    batches = Batches(reader, 16, 4, seed=1)
    assert batches.starts(10**15).shape == (4,)  # counting up to it would take years


@given(SEEDS, st.integers(0, 200), st.sampled_from([1, 2, 3, 4, 6, 12]))
@settings(deadline=None, max_examples=50)
def test_the_global_batch_does_not_depend_on_how_it_is_cut(
    reader: TokenReader, seed: int, step: int, pieces: int
) -> None:
    batches = Batches(reader, 16, 12, seed)
    size = 12 // pieces
    whole, _ = batches.read(step, 0, 12)
    parts = [batches.read(step, first, first + size)[0] for first in range(0, 12, size)]
    assert [row.tolist() for part in parts for row in part] == whole.tolist()


def test_targets_are_the_inputs_shifted_by_one(reader: TokenReader) -> None:
    batches = Batches(reader, 16, 5, seed=3)
    for step in range(30):
        inputs, targets = batches.read(step, 0, 5)
        assert inputs.shape == targets.shape == (5, 16)
        assert inputs[:, 0].tolist() == batches.starts(step).tolist()  # the token at n is n
        assert targets.tolist() == (inputs + 1).tolist()
        assert (inputs - inputs[:, :1]).tolist() == [list(range(16))] * 5


def test_seeds_and_epochs_differ_in_order(reader: TokenReader) -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        batches = Batches(reader, 16, 1, seed)
        first = epoch * batches._streams[0].windows
        starts = [int(batches.starts(step)[0]) for step in range(first, first + batches._streams[0].windows)]
        return tuple(np.argsort(starts).tolist())

    assert len({order(seed, epoch) for seed in range(5) for epoch in range(5)}) == 25


def test_windows_begin_at_every_offset_in_time(reader: TokenReader) -> None:
    batches = Batches(reader, 4, 1, seed=0)
    offsets = {int(batches.starts(epoch * batches._streams[0].windows)[0]) % 4 for epoch in range(40)}
    assert offsets == {0, 1, 2, 3}


def test_data_shorter_than_two_windows_is_a_clear_error(tmp_path: Path) -> None:
    reader = count_up(tmp_path, tokens=31)
    with pytest.raises(UserError, match=r"31 tokens.*model\.block_size = 16"):
        Batches(reader, 16, 1, seed=0)
    batches = Batches(count_up(tmp_path / "more", tokens=32), 16, 2, seed=0)
    inputs, targets = batches.read(0, 0, 2)
    assert inputs.shape == targets.shape == (2, 16)
