"""How fast a device can multiply matrices, by its data sheet or measured. Figures for people; they decide no result."""

import re
import time
from functools import cache

import torch

_MEASURING_SECONDS = 0.3
_SIZES = (256, 512, 1024, 2048)

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Dense peaks in TFLOP/s: 16-bit with fp32 accumulation, TF32, FP32 without tensor cores. From NVIDIA's data sheets and, for
# GeForce, its architecture white papers; where a sheet gives only figures with sparsity, half of them. Names are whole, as
# torch.cuda.get_device_name() gives them: a laptop's, a "Ti" or a MIG slice is another device.
_GPU_PEAKS: tuple[tuple[str, float, float | None, float], ...] = (
    (r"NVIDIA B200", 2250, 1125, 75),  # HGX B200
    (r"NVIDIA H200", 989, 494, 67),
    (r"NVIDIA H200 NVL", 835, 417, 60),
    (r"NVIDIA H100 80GB HBM3", 989, 494, 67),  # SXM5
    (r"NVIDIA H100 NVL", 835, 417, 60),
    (r"NVIDIA H100 PCIe", 756, 378, 51),
    (r"(NVIDIA )?A100-(SXM4|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe", 312, 156, 19.5),
    (r"NVIDIA A40", 149.7, 74.8, 37.4),
    (r"NVIDIA A10", 125, 62.5, 31.2),
    (r"NVIDIA A10G", 70, 35, 35),
    (r"NVIDIA L40S", 362, 183, 91.6),
    (r"NVIDIA L40", 181, 90.5, 90.5),
    (r"NVIDIA L4", 121, 60, 30.3),
    (r"NVIDIA GeForce RTX 5090", 209.5, 104.8, 104.8),
    (r"NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
    (r"NVIDIA GeForce RTX 3090", 71, 35.6, 35.6),
    (r"Tesla V100-SXM2-(16|32)GB", 125, None, 15.7),  # before Ampere: neither TF32 nor bf16
    (r"Tesla V100-PCIE-(16|32)GB", 112, None, 14),
    (r"Tesla T4", 65, None, 8.1),
)


def device_peak(device: torch.device, precision: str) -> float | None:
    """Return the FLOP/s that matrix products in `precision` (fp32, tf32, bf16, fp16) can reach; None if that is not known.

    Of a GPU the data sheet's figure, of a CPU the fastest of many products, measured for 0.3 s when it is asked for first.
    """
    if device.type == "cuda":
        return gpu_peak(torch.cuda.get_device_name(device), precision)
    return matmul_rate(DTYPES[precision], torch.get_num_threads()) if device.type == "cpu" else None


def gpu_peak(name: str, precision: str) -> float | None:
    """Return the dense peak in FLOP/s of a GPU by its whole name, None if it or the precision on it is not known."""
    for pattern, half, tensor32, single in _GPU_PEAKS:
        if re.fullmatch(pattern, name):
            peak = {"fp32": single, "tf32": tensor32, "fp16": half, "bf16": half if tensor32 else None}[precision]
            return None if peak is None else peak * 1e12
    return None


@cache
def matmul_rate(dtype: torch.dtype, threads: int) -> float:
    """Return the FLOP/s of matrix products on this CPU with the `threads` that torch has; takes 0.3 s.

    Products of several sizes take turns, and the best of all counts: other work on the machine makes single ones slower, by
    factors of 10 to 100 while it lasts, and none faster.
    """
    matrices = [torch.ones(size, size, dtype=dtype) for size in _SIZES]
    best, end = 0.0, time.perf_counter() + _MEASURING_SECONDS
    while not best or time.perf_counter() + _flops(matrices[0]) / best < end:
        for matrix in matrices:
            # Of a type that is only emulated a large product would take minutes.
            if best and time.perf_counter() + _flops(matrix) / best > end:
                break
            best = max(best, _flops(matrix) / _seconds(matrix))
    return best


def _flops(matrix: torch.Tensor) -> int:
    return 2 * len(matrix) ** 3


def _seconds(matrix: torch.Tensor) -> float:
    begun = time.perf_counter()
    _ = matrix @ matrix
    return time.perf_counter() - begun
