"""The loss without logits against the loss with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from gpt.model import loss
from gpt.model.loss import linear_cross_entropy, token_cross_entropy

Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def make(count: int, width: int, vocab_size: int, seed: int = 0, size: float = 1.0) -> Case:
    """Return hidden states (count, width), a head's weight (vocab_size, width) and targets (count,)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=generator) * size
    weight = torch.randn(vocab_size, width, generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, vocab_size, (count,), generator=generator)


def explicit(case: Case, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and nats from logits that are all there, in double precision."""
    logits = case[0].double() @ case[1].double().T
    nats = F.cross_entropy(logits, case[2], reduction="sum")
    return nats * scale, nats


def gradients(value: torch.Tensor, case: Case, upstream: float = 1.0) -> list[torch.Tensor]:
    return [gradient.float() for gradient in torch.autograd.grad(value * upstream, case[:2])]


def close(actual: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5, size: float = 0.0) -> None:
    """Compare with a tolerance relative to the largest value, or to the `size` of what it is a difference of."""
    actual, wanted = actual.detach().double(), wanted.detach().double()
    size = max(size, wanted.abs().max().item())
    torch.testing.assert_close(actual, wanted, atol=tolerance * size, rtol=0)


@contextmanager
def chunks_of(size_bytes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "_CHUNK_BYTES", size_bytes)
        yield


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 16), st.integers(1, 60)),
    chunk_bytes=st.integers(1, 12_000),
    scale=st.sampled_from([1.0, 0.01, 7.0]),
    upstream=st.sampled_from([1.0, 0.25, 1024.0]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=150)
def test_it_is_cross_entropy_of_the_logits_and_so_are_its_gradients(
    shape: tuple[int, int, int],
    chunk_bytes: int,
    scale: float,
    upstream: float,
    seed: int,
) -> None:
    case = make(*shape, seed)
    with chunks_of(chunk_bytes):
        value, nats = linear_cross_entropy(*case, scale=scale)
    wanted_value, wanted_nats = explicit(case, scale)
    close(value, wanted_value, size=scale)
    close(nats, wanted_nats, size=1)
    assert value.requires_grad and not nats.requires_grad
    for actual, wanted in zip(gradients(value, case, upstream), gradients(wanted_value, case, upstream), strict=True):
        close(actual, wanted, size=scale * upstream)


@pytest.mark.parametrize("chunk_bytes", [200, 2**26])
def test_rows_of_padding_have_no_part_in_it(chunk_bytes: int) -> None:
    hidden, weight, targets = make(20, 8, 30)
    padded = torch.cat([weight.detach(), torch.full((34, 8), 50.0)]).requires_grad_()
    with chunks_of(chunk_bytes):
        value, nats = linear_cross_entropy(hidden, padded, targets, vocab_size=30, scale=0.1)
        wanted_value, wanted_nats = linear_cross_entropy(hidden, weight, targets, scale=0.1)
        each = token_cross_entropy(hidden, padded, targets, vocab_size=30)
    close(value, wanted_value)
    close(nats, wanted_nats)
    close(each.sum(), wanted_nats)
    found, wanted = gradients(value, (hidden, padded, targets)), gradients(wanted_value, (hidden, weight, targets))
    close(found[0], wanted[0])
    close(found[1][:30], wanted[1])
    assert not found[1][30:].any()


def test_nats_are_pytorchs_whatever_the_scale() -> None:
    case = make(20, 8, 30)
    _, nats = linear_cross_entropy(*case, scale=0.1)
    close(nats, F.cross_entropy(case[0] @ case[1].T, case[2], reduction="sum"))


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_gets_no_gradient_and_the_other_its_own(frozen: int) -> None:
    case = make(9, 4, 11)
    wanted = gradients(explicit(case)[0], case)
    case[frozen].requires_grad_(False)
    with chunks_of(100):
        linear_cross_entropy(*case)[0].backward()
    assert case[frozen].grad is None
    other = case[1 - frozen].grad
    assert other is not None
    close(other, wanted[1 - frozen])


def test_without_gradients_it_gives_the_same_and_keeps_nothing() -> None:
    case = make(20, 8, 30)
    with_gradients = linear_cross_entropy(*case, scale=0.1)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            without = linear_cross_entropy(*case, scale=0.1)
        for actual, wanted in zip(without, with_gradients, strict=True):
            assert not actual.requires_grad
            assert torch.equal(actual, wanted)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
@pytest.mark.parametrize("chunk_bytes", [2000, 2**26])
def test_under_autocast_it_computes_in_halves_and_adds_up_in_floats(
    dtype: torch.dtype, tolerance: float, chunk_bytes: int
) -> None:
    case = make(200, 16, 50)
    wanted_value, wanted_nats = explicit(case, scale=1 / 200)
    with chunks_of(chunk_bytes), torch.autocast("cpu", dtype):
        value, nats = linear_cross_entropy(*case, scale=1 / 200)
    assert value.dtype == nats.dtype == torch.float32
    close(value, wanted_value, tolerance)
    close(nats, wanted_nats, tolerance)
    value.backward()
    for part, wanted in zip(case[:2], gradients(wanted_value, case), strict=True):
        assert part.grad is not None
        assert part.grad.dtype == torch.float32
        close(part.grad, wanted, tolerance)


def test_small_gradients_of_a_scaled_loss_survive_fp16() -> None:
    """A mean over many tokens has gradients below fp16's smallest number; a GradScaler's factor must come in time."""
    case = make(64, 16, 500)
    tokens, factor = 2**17, 2.0**16
    wanted = gradients(explicit(case, scale=1 / tokens)[0], case, factor)
    with torch.autocast("cpu", torch.float16):
        value, _ = linear_cross_entropy(*case, scale=1 / tokens)
    for actual, exact in zip(gradients(value, case, factor), wanted, strict=True):
        assert (actual - exact).norm() / exact.norm() < 0.002


def test_huge_logits_do_not_overflow() -> None:
    case = make(20, 8, 30, size=1e5)
    value, nats = linear_cross_entropy(*case)
    wanted_value, wanted_nats = explicit(case)
    assert torch.isfinite(nats)
    close(value, wanted_value)
    close(nats, wanted_nats)
    for actual, wanted in zip(gradients(value, case), gradients(wanted_value, case), strict=True):
        assert torch.isfinite(actual).all()
        close(actual, wanted)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_it_never_holds_the_logits_of_all_tokens() -> None:
    N, C, V, rows = 64, 4, 1000, 8
    case = make(N, C, V)
    with chunks_of(4 * rows * V), LargestTensor() as seen:
        linear_cross_entropy(*case)[0].backward()
    assert seen.numel == rows * V
    with LargestTensor() as seen:  # that the measure sees them where they are
        explicit(case)[0].backward()
    assert seen.numel == N * V
