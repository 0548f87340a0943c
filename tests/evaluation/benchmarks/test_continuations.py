import random
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt.evaluation.benchmarks import continuations
from gpt.evaluation.benchmarks.continuations import Pair, encode_pair, score_continuations
from gpt.model.storage import load_model
from gpt.model.transformer import GPTModel
from tests.evaluation.benchmarks.made_up import make_model, text

BLOCK = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), block_size=BLOCK)


@pytest.fixture
def model(folder: Path) -> GPTModel:
    return load_model(folder)[0]


def draw_pairs(seed: int, longest: int) -> list[Pair]:
    """Pairs of which some share a context, some are the same, and some do not fit into a block."""
    draw = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [draw.randrange(300) for _ in range(draw.randint(1, most))]

    pairs = []
    for _ in range(12):
        context = tokens(2 * longest)
        pairs += [Pair(context, tokens(longest if draw.random() < 0.7 else 1)) for _ in range(draw.randint(1, 4))]
    return [*pairs, *draw.sample(pairs, 5)]


@torch.no_grad()
def one_by_one(model: GPTModel, pair: Pair) -> tuple[float, bool]:
    """What lm-eval's model of Hugging Face does with a pair: all logits of one row."""
    stream = (pair.context + pair.continuation)[-(model.config.block_size + 1) :]
    logits = model(torch.tensor([stream[:-1]]))[0, -len(pair.continuation) :].double()
    wanted = torch.tensor(pair.continuation)
    likelihoods = logits.log_softmax(-1).gather(1, wanted[:, None])
    return -likelihoods.sum().item(), bool((logits.argmax(-1) == wanted).all())


@pytest.mark.parametrize("tokens_per_batch", [1, 64, 4096])
@pytest.mark.parametrize("share_contexts", [True, False])
@pytest.mark.parametrize("longest", [5, BLOCK])
def test_each_scores_what_it_scores_by_itself(
    model: GPTModel, monkeypatch: pytest.MonkeyPatch, tokens_per_batch: int, share_contexts: bool, longest: int
) -> None:
    monkeypatch.setattr(continuations, "_TOKENS_PER_BATCH", tokens_per_batch)
    monkeypatch.setattr(continuations, "_LOGITS_AT_A_TIME", 3 * 300)
    pairs = draw_pairs(longest, longest)
    scores = score_continuations(model, pairs, share_contexts=share_contexts)
    expected = [one_by_one(model, pair) for pair in pairs]
    assert scores.nats == pytest.approx([nats for nats, _ in expected], abs=1e-4)
    assert (scores.misses == 0).tolist() == [greedy for _, greedy in expected]
    assert scores.misses[0] < len(pairs[0].continuation) or scores.misses.any()


def test_in_bf16_contexts_that_are_read_once_score_nearly_the_same(model: GPTModel) -> None:
    """Autocast gives keys and values of half the size of those that the cache holds."""
    pairs = [Pair(list(range(length)), [choice, 1, 2]) for length in (4, 9, 20) for choice in range(4)]
    exact, halves = (score_continuations(model, pairs, autocast=kind) for kind in (None, torch.bfloat16))
    assert halves.nats == pytest.approx(exact.nats, rel=0.02)
    assert (halves.nats != exact.nats).any()


def test_greedy_is_what_greedy_decoding_writes(model: GPTModel) -> None:
    context = [7, 8, 9]
    written: list[int] = []
    for _ in range(6):
        with torch.no_grad():
            written.append(int(model(torch.tensor([context + written]))[0, -1].argmax()))
    wrong = [*written[:5], (written[5] + 1) % 300]
    scores = score_continuations(model, [Pair(context, written), Pair(context, wrong)])
    assert scores.misses.tolist() == [0, 1]


def test_a_continuation_longer_than_a_block_is_predicted_whole_each_token_from_half_a_block_at_least(
    model: GPTModel,
) -> None:
    stream = list(np.random.default_rng(0).integers(300, size=5 + 4 * BLOCK + 3))
    context, continuation = [int(token) for token in stream[:5]], [int(token) for token in stream[5:]]
    pieces = list(continuations._pieces(Pair(context, continuation), BLOCK))
    assert [token for piece in pieces for token in piece.targets] == continuation
    assert all(len(piece.context) + len(piece.targets) - 1 <= BLOCK for piece in pieces)
    assert all(len(piece.context) >= BLOCK // 2 for piece in pieces[1:])
    assert pieces[0].context == tuple(context)


@pytest.mark.parametrize("share_contexts", [True, False])
def test_parts_of_several_processes_add_up_to_what_one_scores(
    model: GPTModel, monkeypatch: pytest.MonkeyPatch, share_contexts: bool
) -> None:
    monkeypatch.setattr(continuations, "_TOKENS_PER_BATCH", 100)
    pairs = draw_pairs(1, BLOCK)
    whole = score_continuations(model, pairs, share_contexts=share_contexts)
    calls = []
    hidden = GPTModel.hidden

    def counting(self: GPTModel, *arguments: object, **options: object) -> torch.Tensor:
        calls[-1] += 1
        return hidden(self, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(GPTModel, "hidden", counting)
    parts = []
    for rank in range(3):
        calls.append(0)
        parts.append(score_continuations(model, pairs, part=(rank, 3), share_contexts=share_contexts).to_array())
    assert np.array_equal(sum(parts), whole.to_array())
    assert all((part[0] == 0).any() for part in parts)
    if not share_contexts:
        assert len(set(calls)) == 1, "a model that is split over them needs all to make the same passes"


def test_it_gives_up_before_the_next_batch(model: GPTModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuations, "_TOKENS_PER_BATCH", 40)
    asked = []
    score_continuations(model, draw_pairs(2, 20), give_up=lambda: bool(asked.append(1)) or len(asked) > 2)
    assert len(asked) == 3


def test_the_model_and_random_numbers_stay_as_they_are(model: GPTModel) -> None:
    model.train()
    state = torch.get_rng_state()
    score_continuations(model, draw_pairs(3, 8))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_pairs_are_cut_where_the_context_alone_would_end(folder: Path) -> None:
    encoding = load_model(folder)[1]
    for seed in range(50):
        context, continuation = text(seed, 4) + " " * (seed % 3), " " + text(seed + 1000, 3)
        pair = encode_pair(encoding, context, continuation)
        assert encoding.decode(pair.context[1:] + pair.continuation) == context + continuation
        assert pair.context == [encoding.eot_token, *encoding.encode_ordinary(context.rstrip())]
    assert encode_pair(encoding, "", "queen").context == [encoding.eot_token]
    assert encoding.eot_token not in encode_pair(encoding, "<|endoftext|>", "<|endoftext|>").context[1:]
    joined = encode_pair(encoding, "que", "en")
    assert joined.continuation, "what melts into the context's last token is encoded by itself"
    with pytest.raises(ValueError, match="must not be empty"):
        encode_pair(encoding, "queen", "")
