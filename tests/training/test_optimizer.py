import math
from typing import Any

import pytest
import torch

from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import Params
from gpt.training.steps.optimizer import (
    Muon,
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    orthogonalise,
    set_learning_rate,
)


def settings(params: Params, **change: object):
    return params.train.model_copy(update={"max_steps": 1000, "warmup_fraction": 0.02, **change})


def test_rate_warms_up_linearly_then_falls_as_a_cosine_to_min_lr(params: Params) -> None:
    train = settings(params, schedule="cosine", learning_rate=1e-2, min_lr=1e-4)
    assert learning_rate(0, train) == pytest.approx(1e-2 / 20)
    assert learning_rate(19, train) == pytest.approx(1e-2)
    assert learning_rate(20, train) == pytest.approx(1e-2)
    middle = 20 + (999 - 20) / 2
    expected = 1e-4 + 0.5 * (1e-2 - 1e-4) * (1 + math.cos(math.pi * (int(middle) - 20) / 979))
    assert learning_rate(int(middle), train) == pytest.approx(expected)
    assert learning_rate(999, train) == pytest.approx(1e-4)
    rates = [learning_rate(step, train) for step in range(20, 1000)]
    assert rates == sorted(rates, reverse=True)


def test_wsd_stays_at_the_peak_and_falls_linearly_at_the_end(params: Params) -> None:
    train = settings(params, schedule="wsd", learning_rate=1e-2, min_lr=1e-3, decay_fraction=0.3)
    assert learning_rate(10, train) == pytest.approx(1e-2 * 11 / 20)
    assert [learning_rate(step, train) for step in range(20, 700)] == pytest.approx([1e-2] * 680)
    assert learning_rate(699 + 150, train) == pytest.approx((1e-2 + 1e-3) / 2)
    assert learning_rate(999, train) == pytest.approx(1e-3)


def test_every_group_follows_the_schedule_at_its_own_peak(params: Params) -> None:
    train = settings(params, optimizer="muon", learning_rate=1e-2, muon_learning_rate=0.05)
    optimizer = build_optimizer(small_model(), train)
    set_learning_rate(optimizer, 9, train)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.005, 0.025])


def test_muon_gets_the_blocks_matrices_and_adamw_the_rest(params: Params) -> None:
    model = small_model()
    optimizer = build_optimizer(model, settings(params, optimizer="muon"))
    chosen = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in chosen) == (name.startswith("trf_blocks") and name.endswith("weight")), name
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(listed) == len(list(model.parameters()))


def test_muon_takes_torchs_steps(params: Params) -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((16, 16), (48, 16), (16, 48), (16, 16))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    muon = Muon([{"params": ours, "muon": True, "lr": 0.02, "weight_decay": 0.1}], fused=True)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        muon.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        # Theirs is computed in bf16, with three digits.
        torch.testing.assert_close(mine, other, atol=0.02 * 3 * 0.02, rtol=0)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 24, 64), (2, 1, 8)])
def test_an_orthogonalised_matrix_keeps_its_directions_and_has_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    values[:, -1] = 0.004 * values.norm(dim=1)  # small, but not nothing
    found = left.mT @ orthogonalise(100 * (left * values[:, None]) @ right) @ right.mT
    singular = found.diagonal(dim1=1, dim2=2)
    assert 0.65 < singular.min()
    assert singular.max() < 1.23
    torch.testing.assert_close(found, torch.diag_embed(singular), atol=1e-4, rtol=0)


def test_a_matrix_of_one_direction_and_one_of_zeros_are_orthogonalised() -> None:
    outer = torch.outer(torch.randn(16), torch.randn(40))
    found = orthogonalise(torch.stack([outer, torch.zeros_like(outer)]))
    assert 0.65 < torch.linalg.svdvals(found[0])[0] < 1.23
    assert not found[1].any()


def test_a_run_of_one_step_has_a_rate(params: Params) -> None:
    assert learning_rate(0, settings(params, max_steps=1)) == params.train.learning_rate


def test_only_matrices_decay(params: Params) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    decayed, kept = build_optimizer(model, settings(params, weight_decay=0.5)).param_groups
    assert [p.dim() for p in decayed["params"]] == [2]
    assert decayed["weight_decay"] == 0.5
    assert [p.dim() for p in kept["params"]] == [1, 1, 1]
    assert kept["weight_decay"] == 0


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_comes_back_under_the_names_of_the_parameters(params: Params, kind: str) -> None:
    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            model(torch.arange(8)[None]).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    train = settings(params, optimizer=kind)
    model, twin = small_model(), small_model()
    optimizer, other = build_optimizer(model, train), build_optimizer(twin, train)
    steps(model, optimizer, 3)
    twin.load_state_dict(model.state_dict())
    load_optimizer_tensors(
        twin, other, {name: value.clone() for name, value in optimizer_tensors(model, optimizer).items()}
    )
    steps(model, optimizer, 2)
    steps(twin, other, 2)
    for mine, other_parameter in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other_parameter)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("gradient", [1e30, math.nan])
def test_where_found_inf_is_one_nothing_changes_and_where_it_is_zero_all_is_as_without(
    params: Params, kind: str, gradient: float
) -> None:
    train = settings(params, optimizer=kind, weight_decay=0.5)
    models = [small_model(), small_model()]
    optimizers: list[Any] = [build_optimizer(model, train) for model in models]

    def step(model: GPTModel, optimizer: Any, value: float | None = None) -> None:
        model(torch.arange(8)[None]).square().sum().backward()
        for parameter in model.parameters():
            if value is not None and parameter.grad is not None:
                parameter.grad = torch.full_like(parameter, value)
        optimizer.step()
        optimizer.zero_grad()

    optimizers[1].found_inf = torch.zeros(())
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            step(model, optimizer)
    optimizers[1].found_inf = torch.ones(())
    step(models[1], optimizers[1], gradient)
    kept = [model.state_dict() | optimizer_tensors(model, o) for model, o in zip(models, optimizers, strict=True)]
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def small_model() -> GPTModel:
    model = GPTModel(GPTConfig(vocab_size=20, n_layer=2, n_head=2, n_embd=8, block_size=8))
    model.init_weights(0)
    return model
