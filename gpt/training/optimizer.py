"""AdamW and its learning rate. The rate is a function of the step: there is no scheduler to save or to advance."""

import math
from typing import Any

import torch
from torch import nn

from gpt.params import Train


def build_optimizer(model: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019) that decays matrices and embeddings, and no gains or biases."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    # fused: one kernel over all parameters instead of many small ones.
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=1e-8, fused=True
    )


def learning_rate(step: int, settings: Train) -> float:
    """Return the rate of optimizer step `step` (from 0): linear warm-up, then a cosine down to `min_lr` at the last step."""
    warmup_steps = round(settings.warmup_fraction * settings.max_steps)
    if step < warmup_steps:
        return settings.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, settings.max_steps - 1 - warmup_steps)
    return settings.min_lr + 0.5 * (settings.learning_rate - settings.min_lr) * (
        1 + math.cos(math.pi * min(1.0, progress))
    )


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as flat tensors named `<parameter>/<state>`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    states: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        parameter, key = name.rsplit("/", 1)
        states.setdefault(parameter, {})[key] = tensor
    order = {
        id(parameter): number for number, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"])
    }
    packed = {order[id(parameters[name])]: state for name, state in states.items()}
    optimizer.load_state_dict({"state": packed, "param_groups": optimizer.state_dict()["param_groups"]})
