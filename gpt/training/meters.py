"""How fast training is, and how much of the device it uses. Measurements, not results: they go to MLflow, never to plots/.

MFU (model FLOPs utilisation, Chowdhery et al. 2022) is the FLOPs that the model needs over those that the device could do.
A device whose peak is not known for sure has none: n/a, not a guess.
"""

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gpt.model.transformer import GPTModel
from gpt.tracking.progress import Reading

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

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


class Meters:
    """Speed of training alone, without validation, samples and saves, from `step` on.

    `tokens_per_step` are those of the global batch; `peak` is one device's in FLOP/s, None if it is not known.
    """

    def __init__(
        self,
        step: int,
        *,
        tokens_per_step: int,
        flops_per_token: float,
        device: torch.device,
        processes: int,
        peak: float | None,
    ) -> None:
        self._device, self._tokens_per_step = device, tokens_per_step
        self._mfu_per_rate = flops_per_token / (processes * peak) if peak else None
        self.restart(step)

    def restart(self, step: int) -> None:
        """Measure from now and from `step` on."""
        self._step, self._since = step, time.perf_counter()

    def read(self, step: int) -> Reading:
        """Return what was measured since the last reading; on a GPU, call it once the loss has been read and the queue is empty."""
        now = time.perf_counter()
        rate = (step - self._step) * self._tokens_per_step / (now - self._since)
        self._step, self._since = step, now
        mfu = None if self._mfu_per_rate is None else rate * self._mfu_per_rate
        return Reading(rate, mfu, peak_memory_bytes(self._device))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # steps in the queue are training
        begun = time.perf_counter()
        yield
        self._since += time.perf_counter() - begun


def flops_per_token(model: GPTModel) -> float:
    """Return the FLOPs that training needs for a token of a full context, by PaLM's convention (appendix B).

    6 N + 12 L H Q T. N are the weights that multiply every token: the matrices of the blocks, whatever their shapes (grouped
    keys and values, a gated feed-forward), and the output head, tied or not; two FLOPs a weight forward, four backward. Looking
    an embedding up, norms and biases count nothing. The second term is attention: L layers, H heads of size Q, scores
    and weighted values over the full square of T = block_size tokens, though the causal half is never needed, and once a query
    head, though groups share their keys. What is computed again under activation checkpointing does not count.
    """
    config = model.config
    matrices = sum(parameter.numel() for parameter in model.trf_blocks.parameters() if parameter.dim() >= 2)
    attention = config.n_layer * config.n_head * config.head_size * config.block_size
    return 6 * (matrices + model.head_weight.numel()) + 12 * attention


def device_peak(device: torch.device, precision: str) -> float | None:
    """Return the FLOP/s that matrix products in `precision` (fp32, bf16, fp16) can reach; None if that is not known.

    Of a GPU the data sheet's figure, of a CPU the fastest of some products, measured now in about 0.1 s.
    """
    if device.type == "cuda":
        tf32 = torch.get_float32_matmul_precision() != "highest"
        return gpu_peak(torch.cuda.get_device_name(device), precision, tf32=tf32)
    return matmul_rate(DTYPES[precision]) if device.type == "cpu" else None


def gpu_peak(name: str, precision: str, *, tf32: bool) -> float | None:
    """Return the dense peak in FLOP/s of a GPU by its whole name; `tf32` says whether fp32 products may use it."""
    for pattern, half, tensor32, single in _GPU_PEAKS:
        if re.fullmatch(pattern, name):
            fp32 = tensor32 if tf32 and tensor32 else single
            peak = {"fp32": fp32, "fp16": half, "bf16": half if tensor32 else None}[precision]
            return None if peak is None else peak * 1e12
    return None


def matmul_rate(dtype: torch.dtype) -> float:
    """Return the FLOP/s of matrix products on this CPU, with the threads that torch has; takes about 0.1 s."""
    best = 0.0
    for size in (256, 512, 1024, 2048):
        matrix = torch.ones(size, size, dtype=dtype)
        seconds = min(_seconds(matrix) for _ in range(3))
        best = max(best, 2 * size**3 / seconds)
        if seconds > 0.01:  # large enough to be at full speed
            break
    return best


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has had: allocated on its GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # getrusage's figure would be the parent's where that was larger.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _seconds(matrix: torch.Tensor) -> float:
    begun = time.perf_counter()
    _ = matrix @ matrix
    return time.perf_counter() - begun
