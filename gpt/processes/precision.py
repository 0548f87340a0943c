"""train.precision and evaluate.precision: the numbers in which passes are computed. They decide the result.

Weights and the optimizer's state are fp32 always.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gpt.errors import UserError
from gpt.processes.machine import is_native, time_ratio

logger = logging.getLogger(__name__)


def check_precision(key: str, precision: str) -> None:
    """Raise `UserError` for a precision in which this machine does not compute, or silently would in another.

    `key` is the setting, as in train.precision.
    """
    on_gpu = torch.cuda.is_available()
    if precision == "fp16" and not on_gpu:  # Accelerate would train in fp32 without a word
        raise UserError(f"params.yaml: {key} = 'fp16' needs a GPU; use fp32 or bf16")
    if precision == "tf32" and not on_gpu:
        raise UserError(f"params.yaml: {key} = 'tf32' needs a GPU; use fp32, or bf16")
    if on_gpu and not is_native(precision):
        raise UserError(f"params.yaml: {key} = {precision!r}, which this GPU cannot compute; use fp32 or fp16")


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Let a GPU compute products of fp32 tensors in TF32, or not, as `precision` says; afterwards it is as it was."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with warnings.catch_warnings():
            # torch.compile advises TF32 to everybody who computes in fp32; params.yaml has decided.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def mixed_precision(precision: str) -> str:
    """Return what Accelerate calls a precision: no, bf16 or fp16."""
    return "no" if autocast_type(precision) is None else precision


def autocast_type(precision: str) -> torch.dtype | None:
    """Return the type that autocast computes products in, None for fp32 and tf32, which need no autocast."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def warn_if_emulated(key: str, precision: str, device: torch.device) -> None:
    """Warn once if this machine has no instructions for a precision, with how much longer it takes than fp32 (measured)."""
    if not is_native(precision):
        factor = time_ratio(precision, device)
        logger.warning(
            "params.yaml: %s = %r is emulated on this processor: passes take about %.2g times as long as in fp32",
            key,
            precision,
            factor,
        )
