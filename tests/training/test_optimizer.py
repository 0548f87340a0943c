import math

import pytest
import torch

from gpt.params import Params
from gpt.training.optimizer import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors


def settings(params: Params, **change: object):
    return params.train.model_copy(update={"max_steps": 1000, "warmup_fraction": 0.02, **change})


def test_rate_warms_up_linearly_then_falls_as_a_cosine_to_min_lr(params: Params) -> None:
    train = settings(params, learning_rate=1e-2, min_lr=1e-4)
    assert learning_rate(0, train) == pytest.approx(1e-2 / 20)
    assert learning_rate(19, train) == pytest.approx(1e-2)
    assert learning_rate(20, train) == pytest.approx(1e-2)
    middle = 20 + (999 - 20) / 2
    expected = 1e-4 + 0.5 * (1e-2 - 1e-4) * (1 + math.cos(math.pi * (int(middle) - 20) / 979))
    assert learning_rate(int(middle), train) == pytest.approx(expected)
    assert learning_rate(999, train) == pytest.approx(1e-4)
    rates = [learning_rate(step, train) for step in range(20, 1000)]
    assert rates == sorted(rates, reverse=True)


def test_a_run_of_one_step_has_a_rate(params: Params) -> None:
    assert learning_rate(0, settings(params, max_steps=1)) == params.train.learning_rate


def test_only_matrices_decay(params: Params) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    decayed, kept = build_optimizer(model, settings(params, weight_decay=0.5)).param_groups
    assert [p.dim() for p in decayed["params"]] == [2]
    assert decayed["weight_decay"] == 0.5
    assert [p.dim() for p in kept["params"]] == [1, 1, 1]
    assert kept["weight_decay"] == 0


def test_state_comes_back_under_the_names_of_the_parameters(params: Params) -> None:
    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = build_optimizer(model, settings(params))
    steps(model, optimizer, 3)
    twin = torch.nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    other = build_optimizer(twin, settings(params))
    load_optimizer_tensors(
        twin, other, {name: value.clone() for name, value in optimizer_tensors(model, optimizer).items()}
    )
    steps(model, optimizer, 2)
    steps(twin, other, 2)
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)
