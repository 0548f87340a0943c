"""Cross-entropy straight from the last hidden states, without a tensor of logits for every token.

Logits are the largest tensor of a GPT: a float for every token and every entry of the vocabulary. Here they live for a chunk of
tokens at a time, and their gradient is computed in place as soon as they are there, so that backward has
only to scale it. The idea is known from Liger Kernel (Hsu et al. 2024) and Cut Cross-Entropy (Wijmans et al. 2024).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

_CHUNK_BYTES = 64 * 2**20
"Of logits at a time. A larger chunk is not faster; a smaller one adds to the head's gradient more often, which costs time."


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    vocab_size: int | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scaled loss and the cross-entropy in nats, both summed over tokens, of logits `hidden @ weight.T`.

    `hidden` is (N, C), `weight` (vocab_size, C), `targets` (N,) token ids. The loss is the cross-entropy times `scale`
    (1 / tokens for a mean); it alone has a gradient. Rows of `weight` from `vocab_size` on are padding: no logits, no gradient.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, scale, vocab_size)


@torch.no_grad()
def token_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, vocab_size: int | None = None
) -> torch.Tensor:
    """Return the cross-entropy in nats of each token under logits `hidden @ weight.T`: (N,) fp32, 0 where its target is -1.

    `hidden` is (N, C), `weight` (vocab_size, C), `targets` (N,) token ids. Logits are computed only where there is a target.
    Rows of `weight` from `vocab_size` on are padding.
    """
    nats = torch.zeros(len(targets), device=hidden.device)
    wanted = (targets >= 0).nonzero().squeeze(1)
    for rows in wanted.split(_rows_at_a_time(len(weight))):
        logits = F.linear(hidden[rows], weight)[:, :vocab_size].float()
        nats[rows] = F.cross_entropy(logits, targets[rows], reduction="none")
    return nats


def _rows_at_a_time(vocab_size: int) -> int:
    return max(1, _CHUNK_BYTES // (4 * vocab_size))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        scale: float,
        vocab_size: int | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        needs_gradient = any(ctx.needs_input_grad[:2])
        # A mean's gradients are too small for fp16: there backward applies the scale, together with a GradScaler's.
        forward_scale, ctx.backward_scale = (1.0, scale) if hidden.dtype == torch.float16 else (scale, 1.0)
        N, V = len(hidden), len(weight)
        chunks = max(1, math.ceil(4 * N * V / _CHUNK_BYTES))
        rows = math.ceil(N / chunks)
        nats = torch.zeros((), device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if needs_gradient else None
        weight_gradient: torch.Tensor | None = None
        for start in range(0, N, rows):
            part, wanted = hidden[start : start + rows], targets[start : start + rows, None]
            logits = (part @ weight.T).float()  # (rows, V)
            if vocab_size is not None and vocab_size < V:
                # The product has its whole size, for which it was padded; e to the power of these is 0, and so is their gradient.
                logits[:, vocab_size:] = -math.inf
            largest = logits.amax(dim=-1, keepdim=True)
            wanted_logits = logits.gather(1, wanted) - largest
            exponentials = logits.sub_(largest).exp_()
            total = exponentials.sum(dim=-1, keepdim=True)
            nats += (total.log() - wanted_logits).sum()
            if hidden_gradient is None:
                continue
            # softmax - one_hot, in the logits' memory.
            gradient = exponentials.mul_(forward_scale / total)
            gradient.scatter_add_(1, wanted, torch.full_like(wanted, -forward_scale, dtype=gradient.dtype))
            gradient = gradient.to(part.dtype)
            torch.mm(gradient, weight, out=hidden_gradient[start : start + rows])
            if weight_gradient is None:
                weight_gradient = (gradient.T @ part).float()
            elif gradient.dtype == weight_gradient.dtype:
                weight_gradient.addmm_(gradient.T, part)
            else:
                weight_gradient += gradient.T @ part
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(nats)
        return nats * scale, nats

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        factor = gradients[0] * ctx.backward_scale
        # Reading the factor costs nothing on a CPU, where multiplying a large head's gradient by one costs a percent.
        if factor.device.type != "cpu" or factor != 1:
            hidden_gradient, weight_gradient = hidden_gradient.mul_(factor), weight_gradient.mul_(factor)
        return hidden_gradient, weight_gradient, None, None, None
