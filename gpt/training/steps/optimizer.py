"""AdamW, Muon, and their learning rate. The rate is a function of the step: there is no scheduler to save or to advance."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from gpt.params.training import Train
from gpt.training.steps.sharding import full_tensor, to_local_shard

# Of Muon's authors (Jordan et al. 2024); the quintic's coefficients pull all singular values towards 1 within five rounds.
_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def build_optimizer(
    model: nn.Module, settings: Train, learning_rates: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019), or Muon for the blocks' matrices and AdamW for everything else.

    Matrices and embeddings decay, gains and biases do not. `learning_rates` are the peaks of modules that have one of their own.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    own = {
        name: rate
        for name, _ in trained
        for module, rate in (learning_rates or {}).items()
        if name.startswith(f"{module}.")
    }
    named = [(name, parameter) for name, parameter in trained if name not in own]
    hidden = (
        {name for name, p in named if p.dim() == 2 and "trf_blocks" in name} if settings.optimizer == "muon" else set()
    )
    adamw = {"peak_lr": settings.learning_rate, "lr": settings.learning_rate}
    decay = {"weight_decay": settings.weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if p.dim() >= 2 and name not in hidden], **adamw, **decay},
        {"params": [p for _, p in named if p.dim() < 2], **adamw, "weight_decay": 0.0},
    ]
    for rate in sorted(set(own.values())):
        parts = [parameter for name, parameter in trained if own.get(name) == rate]
        groups.append({"params": parts, "peak_lr": rate, "lr": rate, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    betas = (settings.beta1, settings.beta2)
    # fused: one kernel over all parameters instead of many small ones.
    if not hidden:
        return torch.optim.AdamW(groups, betas=betas, eps=1e-8, fused=True)
    muon = {"peak_lr": settings.muon_learning_rate, "lr": settings.muon_learning_rate, "muon": True}
    groups.append({"params": [p for name, p in named if name in hidden], **muon, **decay})
    return Muon(groups, betas=betas, eps=1e-8, fused=True)


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `muon` the momentum's nearest orthogonal matrix is the update (Jordan et al. 2024).

    Every direction of a weight matrix moves by the same amount, where Adam lets a few dominate. It is torch.optim.Muon's
    rule, with two differences: matrices of one shape are orthogonalised together, and in fp32 where bf16 is slow (CPUs).
    """

    def __init__(self, groups: list[dict[str, Any]], **adamw: Any) -> None:
        for group in groups:
            group.setdefault("muon", False)
        super().__init__(groups, **adamw)
        self._step_supports_amp_scaling = False  # fp16's scaler must skip both kinds of groups together

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's expects its own state of every parameter

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters once; if there is an attribute `found_inf`, a float scalar, and it is 1, leave all as it is."""
        for group in self.param_groups:
            if group["muon"]:
                self._muon_step(group, getattr(self, "found_inf", None))
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _muon_step(self, group: dict[str, Any], found_inf: torch.Tensor | None) -> None:
        taken: Any = 1.0 if found_inf is None else 1.0 - found_inf
        shapes: defaultdict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                rows, columns = parameter.shape
                shapes[min(rows, columns), max(rows, columns)].append(parameter)
        for (rows, _), parameters in shapes.items():
            momenta = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in parameters]
            wide: list[torch.Tensor] = []
            for momentum, parameter in zip(momenta, parameters, strict=True):
                gradient = parameter.grad
                assert gradient is not None, "chosen above"
                if found_inf is not None:
                    gradient = gradient.where(found_inf == 0, 0.0)
                momentum.lerp_(gradient, (1 - _MOMENTUM) * taken)
                nesterov = torch.lerp(gradient, momentum, _MOMENTUM)
                nesterov = full_tensor(nesterov)  # a shard alone has another nearest orthogonal matrix
                wide.append(nesterov if len(nesterov) == rows else nesterov.T)
            updates = orthogonalise(torch.stack(wide))
            if found_inf is not None:
                updates *= taken
            for parameter, update in zip(parameters, updates, strict=True):
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"] * taken)
                update = update if len(parameter) == rows else update.T
                # A tall matrix moves its outputs as much as a square one with a larger update.
                stretch = math.sqrt(max(1.0, len(parameter) / parameter.shape[1]))
                parameter.add_(to_local_shard(update, parameter), alpha=-group["lr"] * stretch)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearly orthogonal matrices nearest to (N, rows, columns), rows ≤ columns: singular values of about 1.

    Newton and Schulz's iteration with a quintic, which needs matrix products alone: x ← (a + b x xᵀ + c (x xᵀ)²) x.
    """
    a, b, c = _QUINTIC
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        quintic = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        quintic.diagonal(dim1=1, dim2=2).add_(a)
        x = quintic @ x
    return x.to(matrices.dtype)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, settings: Train) -> None:
    """Set every group's rate for optimizer step `step` (from 0): its own peak, on the common schedule."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * learning_rate(step, settings) / settings.learning_rate


def learning_rate(step: int, settings: Train) -> float:
    """Return the rate of optimizer step `step` (from 0): linear warm-up, then by schedule down to `min_lr` at the last step.

    `cosine` falls from the end of the warm-up on (Loshchilov and Hutter 2017); `wsd` stays at the peak and falls linearly
    in the last `decay_fraction` of the steps (warmup-stable-decay, Hu et al. 2024).
    """
    peak, last = settings.learning_rate, settings.max_steps - 1
    if step < (rising := warmup_steps(settings)):
        return peak * (step + 1) / rising
    begin = _last_at_peak(settings)
    progress = min(1.0, max(0.0, (step - begin) / max(1, last - begin)))
    if not progress:
        return peak  # to the last digit, whatever min_lr is: a run with another decay begins as this one
    left = 1 - progress if settings.schedule == "wsd" else 0.5 * (1 + math.cos(math.pi * progress))
    return settings.min_lr + (peak - settings.min_lr) * left


def warmup_steps(settings: Train) -> int:
    """Return the number of steps in which the rate rises."""
    return settings.warmup_steps or round(settings.warmup_fraction * settings.max_steps)


def stable_steps(settings: Train) -> int:
    """Return the number of first steps that neither `max_steps` nor the decay decides; 0 but for `wsd`.

    The last step is never among them: what is logged and measured after it is because it is the last.
    """
    return max(0, min(_last_at_peak(settings) + 1, settings.max_steps - 1)) if settings.schedule == "wsd" else 0


def _last_at_peak(settings: Train) -> int:
    """Return the step (from 0) from which on the rate falls: the last one at the peak."""
    begin = warmup_steps(settings)
    if settings.schedule == "wsd":
        begin = max(begin, settings.max_steps - 1 - round(settings.decay_fraction * settings.max_steps))
    return begin


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return those of a model's weights that training changes; shards of a model that is split over processes."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in trained}


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
        states.setdefault(parameter, {})[key] = to_local_shard(tensor, parameters[parameter])
    order = {
        id(parameter): number for number, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"])
    }
    packed = {order[id(parameters[name])]: state for name, state in states.items()}
    optimizer.load_state_dict({"state": packed, "param_groups": optimizer.state_dict()["param_groups"]})
