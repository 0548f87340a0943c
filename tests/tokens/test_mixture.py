"""Shares of the tokens by phases: exact, a function of the step alone, and told before training."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.files import write_json
from gpt.params.training import Phase
from gpt.tokens.batches import Batches
from gpt.tokens.epochs import check_epochs, describe_epochs
from gpt.tokens.mixture import Mixture, seen_by
from gpt.tokens.shards import TokenReader

NAMES = "vwxyz"
TOKENS = {"v": 500, "w": 100, "x": 2000, "y": 333, "z": 57}
BLOCK = 8


def phase(from_step: int, **shares: float) -> Phase:
    return Phase(from_step=from_step, shares=shares)


@st.composite
def phases(draw: st.DrawFn, longest: int = 300) -> list[Phase]:
    firsts = [0, *sorted(draw(st.sets(st.integers(1, longest), max_size=3)))]
    drawn = []
    for first in firsts:
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
        parts = [draw(st.integers(1, 1000)) for _ in names]
        drawn.append(phase(first, **{name: part / sum(parts) for name, part in zip(names, parts, strict=True)}))
    return drawn


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> TokenReader:
    """A split of five sources, whose token at position n is n."""
    folder = tmp_path_factory.mktemp("tokens")
    shards, start = [], 0
    for number, (name, tokens) in enumerate(TOKENS.items()):
        file = f"train_{number:05d}.bin"
        np.arange(start, start + tokens, dtype="<u4").tofile(folder / file)
        shards.append({"file": file, "source": name, "tokens": tokens, "sha256": ""})
        start += tokens
    entry = {"tokens": start, "documents": 5, "bytes": start, "documents_sha256": "", "shards": shards}
    index = {"dtype": "<u4", "vocab_size": start, "end_of_text": 0, "tokenizer_id": "", "splits": {"train": entry}}
    write_json(folder / "index.json", index)
    return TokenReader(folder, "train")


def source_of(reader: TokenReader, start: int) -> str:
    (name,) = (name for name, span in reader.sources.items() if span.start <= start < span.start + span.tokens)
    return name


@given(phases(), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_within_a_phase_no_source_is_ever_two_sequences_from_its_share(mixture: list[Phase], batch_size: int) -> None:
    dealt = Mixture(mixture, batch_size)
    for number, current in enumerate(mixture):
        end = mixture[number + 1].from_step if number + 1 < len(mixture) else current.from_step + 100
        sources = np.concatenate([dealt.place(step).sources for step in range(current.from_step, end)])
        total = sum(current.shares.values())
        for source, name in enumerate(dealt.names):
            asked = current.shares.get(name, 0.0) / total * np.arange(1, len(sources) + 1)
            assert np.abs(np.cumsum(sources == source) - asked).max() < 2, name


@given(phases(), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_the_sequences_of_a_source_are_its_next_ones_also_across_phases(mixture: list[Phase], batch_size: int) -> None:
    dealt = Mixture(mixture, batch_size)
    seen: Counter[int] = Counter()
    for step in range(mixture[-1].from_step + 50):
        assert dealt.counts(step) == {name: seen[source] for source, name in enumerate(dealt.names)}
        for source, number in zip(*(part.tolist() for part in dealt.place(step)), strict=True):
            assert number == seen[source]
            seen[source] += 1


def test_five_sources_in_three_phases_get_their_shares_over_ten_thousand_steps(reader: TokenReader) -> None:
    mixture = [
        phase(0, v=0.5, w=0.25, x=0.125, y=0.1, z=0.025),
        phase(6000, v=0.3, w=0.3, x=0.2, y=0.19, z=0.01),
        phase(9000, x=0.62, y=0.38),
    ]
    batches = Batches(reader, BLOCK, 8, 1, mixture)
    for current, end in zip(mixture, (6000, 9000, 10_000), strict=True):
        starts = np.concatenate([batches.starts(step) for step in range(current.from_step, end)])
        for name, span in reader.sources.items():
            found = np.mean((span.start <= starts) & (starts < span.start + span.tokens))
            assert abs(found - current.shares.get(name, 0.0)) < 0.001, (name, found)
    assert sum(use.sequences for use in batches.uses(10_000)) == 80_000


@given(phases(), st.integers(0, 2**62), st.lists(st.integers(0, 400), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_a_batch_is_the_same_whatever_was_read_before_and_however_it_is_cut(
    reader: TokenReader, mixture: list[Phase], seed: int, steps: list[int]
) -> None:
    """So a run that was killed goes on with the same batches, and 1, 2 and 4 processes see the same ones."""
    for step in steps:
        batches = Batches(reader, BLOCK, 12, seed, mixture)
        inputs, targets = batches.read(step, 0, 12)
        assert inputs[:, 0].tolist() == batches.starts(step).tolist()
        assert targets.tolist() == (inputs + 1).tolist(), "windows lie within one stream"
        for row in inputs.tolist():
            assert source_of(reader, row[0]) == source_of(reader, row[-1] + 1)
        for processes in (2, 4):
            size = 12 // processes
            parts = [batches.read(step, first, first + size)[0] for first in range(0, 12, size)]
            assert [row.tolist() for part in parts for row in part] == inputs.tolist()


def test_a_late_step_costs_what_the_first_does(reader: TokenReader) -> None:
    batches = Batches(reader, BLOCK, 4, 1, [phase(0, v=0.5, w=0.5), phase(10**9, v=0.1, x=0.9)])
    assert batches.starts(10**15).shape == (4,)  # counting up to it would take years


@given(phases(), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_a_source_is_seen_window_by_window_and_epoch_by_epoch(
    reader: TokenReader, mixture: list[Phase], seed: int
) -> None:
    batches = Batches(reader, BLOCK, 6, seed, mixture)
    starts = np.concatenate([batches.starts(step) for step in range(mixture[-1].from_step + 200)]).tolist()
    for use in batches.uses(mixture[-1].from_step + 200):
        own = [start for start in starts if source_of(reader, start) == use.source]
        assert len(own) == use.sequences
        windows = (use.tokens - BLOCK) // BLOCK
        assert use.epochs == pytest.approx(len(own) / windows)
        for epoch in range(math.floor(use.epochs)):
            assert len(set(own[epoch * windows : (epoch + 1) * windows])) == windows, "each once"


def test_what_a_run_does_not_come_to_changes_none_of_its_batches(reader: TokenReader) -> None:
    first, second, third = phase(0, v=0.7, x=0.3), phase(50, w=0.5, x=0.5), phase(100, a=1.0)
    seen = seen_by([first, second], 100)
    assert seen == [
        {"from_step": 0, "shares": {"v": 0.7, "x": 0.3}},
        {"from_step": 50, "shares": {"w": 0.5, "x": 0.5}},
    ]
    assert seen_by([first, second, third], 100) == seen, "a phase that begins when the run is over"
    assert seen_by([phase(0, x=0.3, v=0.7, z=0.0), second], 100) == seen, (
        "names in another order, and a share of nothing"
    )
    assert seen_by([first, second], 101) == seen
    assert seen_by([first, second], 50) == seen[:1]
    assert seen_by([], 100) == []
    whole, cut = (Batches(reader, BLOCK, 8, 3, mixture) for mixture in ([first, second], [first]))
    for step in range(50):
        assert whole.starts(step).tolist() == cut.starts(step).tolist()
    assert whole.starts(50).tolist() != cut.starts(50).tolist()


def test_other_sources_beside_it_leave_a_sources_order_as_it_is(reader: TokenReader) -> None:
    def order(mixture: list[Phase]) -> list[int]:
        batches = Batches(reader, BLOCK, 8, 3, mixture)
        starts = np.concatenate([batches.starts(step) for step in range(100)]).tolist()
        return [start for start in starts if source_of(reader, start) == "v"][:200]

    assert order([phase(0, v=0.5, x=0.5)]) == order([phase(0, v=0.4, w=0.1, z=0.5)])


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ([phase(0, v=0.5, q=0.5)], r"train split has 0 tokens of q, fewer than two windows .*leave the source out"),
        ([phase(0, v=1.0), phase(5, z=1.0)], "train split has 57 tokens of z, fewer than two windows of .*= 32"),
    ],
)
def test_a_source_that_has_no_tokens_is_an_error(reader: TokenReader, mixture: list[Phase], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Batches(reader, 32, 4, 1, mixture)


def test_epochs_are_told_and_too_many_are_an_error(reader: TokenReader) -> None:
    batches = Batches(reader, BLOCK, 10, 1, [phase(0, v=0.75, w=0.25), phase(60, x=1.0)])
    uses = batches.uses(100)
    table = [line.split() for line in describe_epochs(uses, 100, BLOCK)]
    assert table[2:] == [
        ["v", "500", "3,600", "45.00%", "7.38"],  # 450 sequences of 61 windows
        ["w", "100", "1,200", "15.00%", "13.64"],
        ["x", "2,000", "3,200", "40.00%", "1.61"],
    ]
    check_epochs(uses, 100, BLOCK, 0.0)
    check_epochs(uses, 100, BLOCK, 13.7)
    with pytest.raises(UserError) as caught:
        check_epochs(uses, 100, BLOCK, 13.6)
    assert str(caught.value) == (
        "params.yaml: train.max_epochs = 13.6: source w has 100 tokens, and 100 steps ask for 1,200: 13.64 epochs; lower its"
        " share in train.mixture, train.max_steps or train.batch_size, add documents, or raise train.max_epochs (0: any number)"
    )


def test_without_a_mixture_epochs_are_those_of_the_whole_split(reader: TokenReader) -> None:
    (use,) = Batches(reader, BLOCK, 10, 1).uses(100)
    assert (use.source, use.tokens, use.sequences) == ("", 2990, 1000)
    assert use.epochs == pytest.approx(1000 / ((2990 - BLOCK) // BLOCK))
    with pytest.raises(
        UserError, match=r"max_epochs = 2: the train split has 2,990 tokens, and 100 steps ask for 8,000"
    ):
        check_epochs([use], 100, BLOCK, 2.0)


def test_every_batch_of_the_one_order_is_as_it_was(reader: TokenReader) -> None:
    """The bytes of every run without a mixture rest on these."""
    batches = Batches(reader, 16, 4, 1337)
    assert [batches.starts(step).tolist() for step in (0, 100)] == [[2117, 37, 1269, 1093], [2339, 2755, 867, 1635]]
