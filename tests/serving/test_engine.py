"""What a request is answered does not depend on who else is answered, and when; and its place is free as soon as it is over."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt.model.generation import generate_tokens
from gpt.model.sampling import Sampling, choose_tokens
from gpt.model.storage import load_model
from gpt.model.transformer import GPTModel
from gpt.serving.engine.cache import BLOCK
from gpt.serving.engine.engine import Engine
from gpt.serving.engine.request import Piece, Request
from gpt.tokens.encoding import Encoding
from tests.serving.conftest import CONTEXT, random_model

CLOSE = 1e-4
"Logits may be off by half of this in another batch's shape: tokens that so little decides between may change places."


@pytest.fixture(scope="module")
def loaded(base_folder: Path) -> tuple[GPTModel, Encoding]:
    return load_model(base_folder)


def make_request(encoding: Encoding, prompt: Sequence[int], **settings: Any) -> Request:
    alternatives = settings.pop("alternatives", None)
    values = {"max_new_tokens": 20, "temperature": 0.0} | settings
    return Request(
        list(prompt),
        Sampling(**values),
        encoding,
        ends={encoding.eot_token},
        alternatives=alternatives,  # type: ignore[arg-type]
    )


def random_prompt(rng: random.Random, vocab_size: int) -> list[int]:
    return [rng.randrange(vocab_size) for _ in range(rng.randint(1, CONTEXT - 1))]


def run(engine: Engine, arrivals: Sequence[tuple[int, Request]] = ()) -> list[Piece]:
    """Step until all is over; a request arrives before the step of its number."""
    pieces: list[Piece] = []
    left = sorted(arrivals, key=lambda each: each[0])
    for step in range(10_000):
        while left and left[0][0] <= step:
            engine.add(left.pop(0)[1])
        if engine.is_idle and not left:
            return pieces
        pieces += engine.step()
    raise AssertionError("it never ends")


def alone(model: GPTModel, request: Request) -> list[int]:
    """Return what `generate_tokens`, which knows of no other request, writes."""
    sampling, written = request.sampling, list[int]()
    room = CONTEXT - len(request.prompt)
    for step in generate_tokens(
        model, [request.prompt], sampling, ends=lambda _, token: token in request.ends or len(written) + 1 >= room
    ):
        written.append(step[0])
    return written


def choices_nearby(model: GPTModel, request: Request, written: Sequence[int]) -> set[int]:
    """Return the tokens that may follow what is written if each logit is up to half of `CLOSE` larger or smaller."""
    tokens, count = [*request.prompt, *written], 500
    with torch.inference_mode():
        logits = model(torch.tensor([tokens]))[0, -1].expand(count, -1)
    logits = logits + CLOSE * (torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) - 0.5)
    seen = None
    if request.sampling.repetition_penalty != 1:
        seen = torch.zeros(count, logits.shape[1], dtype=torch.bool)
        seen[:, tokens] = True
    generators = [torch.Generator().manual_seed(request.sampling.seed) for _ in range(count)]
    for generator in generators:
        torch.rand(len(written), dtype=torch.float64, generator=generator)  # one draw for each token
    return set(choose_tokens(logits, request.sampling, seen, generators).tolist())


def check_same(model: GPTModel, request: Request) -> bool:
    """Return whether an answer is that of the request alone; where it is not, two tokens must have been as good as equal."""
    wanted, found = alone(model, request), request.tokens[len(request.prompt) :]
    if wanted == found:
        return True
    place = next((n for n, pair in enumerate(zip(wanted, found, strict=False)) if len({*pair}) == 2), -1)
    assert place >= 0, (wanted, found)
    nearby = choices_nearby(model, request, wanted[:place])
    assert {wanted[place], found[place]} <= nearby, (request.sampling, nearby, wanted, found)
    return False


def test_a_request_is_answered_as_if_it_were_alone(loaded: tuple[GPTModel, Encoding]) -> None:
    """At random arrivals, cache sizes, chunks; greedy and sampled: 100 schedules."""
    model, encoding = loaded
    same = total = 0
    for seed in range(100):
        rng = random.Random(seed)
        engine = Engine(
            model,
            encoding,
            max_running=rng.randint(1, 8),
            cache_tokens=rng.choice([CONTEXT, CONTEXT + BLOCK, 4 * CONTEXT]),
            step_tokens=rng.choice([4, 16, 256]),
        )
        requests = []
        for number in range(rng.randint(2, 12)):
            settings = rng.choice(
                [{}, {"temperature": 0.8, "top_k": 5}, {"temperature": 1.0, "top_p": 0.7}, {"repetition_penalty": 1.3}]
            )
            prompt = random_prompt(rng, encoding.n_vocab)
            requests.append(
                make_request(encoding, prompt, seed=number, max_new_tokens=rng.randint(1, CONTEXT), **settings)
            )
        run(engine, [(rng.randint(0, 30), request) for request in requests])
        assert engine.cache.free == engine.cache.blocks, "whoever is over holds no block"
        same += sum(check_same(model, request) for request in requests)
        total += len(requests)
    print(f"{total - same} of {total} answers differ where two tokens were as good as equal")
    assert same >= 0.98 * total


def test_the_youngest_gives_way_when_the_cache_is_full(loaded: tuple[GPTModel, Encoding]) -> None:
    model, encoding = loaded
    engine = Engine(model, encoding, max_running=4, cache_tokens=CONTEXT + BLOCK)
    requests = [make_request(encoding, [5 + n] * 10, max_new_tokens=50) for n in range(4)]
    order = [piece.request for piece in run(engine, [(0, request) for request in requests]) if piece.finish]
    assert engine.scheduler.preemptions > 0
    assert order[0] is requests[0], "the oldest never waits for a younger one"
    assert all(check_same(model, request) for request in requests)


def test_a_long_prompt_does_not_hold_up_those_that_write(loaded: tuple[GPTModel, Encoding]) -> None:
    model, encoding = loaded
    engine = Engine(model, encoding, max_running=2, step_tokens=8)
    writer, long = make_request(encoding, [7], max_new_tokens=40), make_request(encoding, [9] * 60)
    engine.add(writer)
    engine.step()
    engine.add(long)
    for step in range(8):
        before = writer.written
        engine.step()
        assert writer.written == before + 1
        assert long.read == min(60, 7 * (step + 1)), "7 tokens of the prompt beside the one of the writer"
    assert long.written >= 1 or long.read == 56


@pytest.mark.parametrize("running", [True, False])
def test_after_a_client_leaves_its_place_is_free_at_the_next_step(
    loaded: tuple[GPTModel, Encoding], running: bool
) -> None:
    model, encoding = loaded
    engine = Engine(model, encoding, max_running=1)
    first, second = (make_request(encoding, [n], max_new_tokens=60) for n in (11, 12))
    for request in (first, second):
        engine.add(request)
    engine.step()
    (first if running else second).left = True
    engine.step()
    assert (first in engine.scheduler.running) is not running
    assert (second in engine.scheduler.running) is running, "who waits takes the place in the same step"
    assert engine.waiting == 0
    used = engine.cache.blocks - engine.cache.free
    assert used == len((second if running else first).blocks)


def test_the_context_ends_an_answer(loaded: tuple[GPTModel, Encoding]) -> None:
    model, encoding = loaded
    request = make_request(encoding, [3] * (CONTEXT - 5), max_new_tokens=CONTEXT)
    (last,) = [piece for piece in run(Engine(model, encoding), [(0, request)]) if piece.finish]
    assert last.finish == ("stop" if request.tokens[-1] in request.ends else "length")
    assert len(request.tokens) <= CONTEXT


def test_a_request_that_takes_too_long_is_given_up(loaded: tuple[GPTModel, Encoding]) -> None:
    model, encoding = loaded
    request = make_request(encoding, [3])
    request.deadline = 0.0
    engine = Engine(model, encoding)
    assert [piece.finish for piece in run(engine, [(0, request)])] == ["timeout"]
    assert engine.is_idle


def test_likelihoods_are_the_models_and_told_with_their_text(loaded: tuple[GPTModel, Encoding]) -> None:
    model, encoding = loaded
    request = make_request(encoding, [8, 9], temperature=1.0, seed=3, max_new_tokens=40, alternatives=3)
    pieces = run(Engine(model, encoding), [(0, request)])
    told = [token for piece in pieces for token in piece.tokens]
    text = "".join(piece.text for piece in pieces)
    written = request.tokens[2:]
    kept = [token for token in written if token != encoding.eot_token]
    assert [token.content for token in told] == [encoding.decode_single_token_bytes(token) for token in kept]
    assert b"".join(token.content for token in told).decode("utf-8", "replace") == text
    with torch.inference_mode():
        logprobs = model(torch.tensor([request.tokens]))[0].log_softmax(-1)
    for place, token in enumerate(told):
        row = logprobs[1 + place]
        assert token.logprob == pytest.approx(float(row[kept[place]]), abs=1e-4)
        best = row.topk(3)
        assert [nats for _, nats in token.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
    # A token that only begins a character is told when the character is.
    offsets = [token.offset for token in told]
    assert offsets == sorted(offsets)
    assert all(offset < len(text) for offset in offsets)


def test_what_belongs_to_a_stop_string_is_never_told(loaded: tuple[GPTModel, Encoding]) -> None:
    model, encoding = loaded
    free = make_request(encoding, [8, 9], max_new_tokens=30)
    whole = "".join(piece.text for piece in run(Engine(model, encoding), [(0, free)]))
    stop = whole[8:11]
    request = make_request(encoding, [8, 9], max_new_tokens=30, stop=(stop,), alternatives=1)
    pieces = run(Engine(model, encoding), [(0, request)])
    text = "".join(piece.text for piece in pieces)
    assert text == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"
    told = b"".join(token.content for piece in pieces for token in piece.tokens).decode("utf-8", "replace")
    assert told.startswith(text)
    assert len(told) < len(text) + 8, "at most the token that begins within the text"


@pytest.mark.parametrize(
    "change",
    [
        {"position": "learned"},
        {"n_kv_head": 0, "bias": False},
        {"activation": "swiglu", "norm": "rmsnorm", "qk_norm": True},
        {"tie_embeddings": False, "position": "sinusoidal"},
    ],
    ids=str,
)
def test_every_kind_of_model_is_served(loaded: tuple[GPTModel, Encoding], change: dict[str, Any]) -> None:
    encoding = loaded[1]
    model = random_model(encoding.n_vocab, **change).eval()
    rng = random.Random(5)
    requests = [make_request(encoding, random_prompt(rng, encoding.n_vocab)[:30], max_new_tokens=25) for _ in range(5)]
    run(Engine(model, encoding, step_tokens=16), [(n, request) for n, request in enumerate(requests)])
    assert sum(check_same(model, request) for request in requests) >= 4
