"""The GPUs of this machine, by the library that comes with NVIDIA's driver: torch would take memory of each for a context."""

import ctypes
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass

from infra.metrics.page import Page

LIBRARY = "libnvidia-ml.so.1"
_NAME_BYTES = 96
_TEMPERATURE_OF_GPU = 0


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", c_uint), ("memory", c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


@dataclass(frozen=True)
class Gpu:
    """What a GPU says of itself; None is what it does not tell, as of a part of one (MIG)."""

    index: int
    name: str
    utilization: float | None
    "From 0 to 1."
    memory_used: int | None
    memory_size: int | None
    "In bytes."
    temperature: int | None
    "In °C."


class Gpus:
    """NVIDIA's management library, opened once; no GPU where there is none."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library: ctypes.CDLL | None = ctypes.CDLL(library)
            self._library.nvmlInit_v2()
        except (OSError, AttributeError):
            self._library = None

    def look(self) -> Iterator[Gpu]:
        """Yield what each GPU says now."""
        if self._library is None:
            return
        count = c_uint()
        if self._library.nvmlDeviceGetCount_v2(byref(count)) != 0:
            return  # the driver is not loaded
        for index in range(count.value):
            device = c_void_p()
            if self._library.nvmlDeviceGetHandleByIndex_v2(c_uint(index), byref(device)) == 0:
                yield self._describe(index, device)

    def _describe(self, index: int, device: c_void_p) -> Gpu:
        assert self._library
        name, used, memory, celsius = ctypes.create_string_buffer(_NAME_BYTES), _Utilization(), _Memory(), c_uint()
        self._library.nvmlDeviceGetName(device, c_char_p(ctypes.addressof(name)), c_uint(_NAME_BYTES))
        has_used = self._library.nvmlDeviceGetUtilizationRates(device, byref(used)) == 0
        has_memory = self._library.nvmlDeviceGetMemoryInfo(device, byref(memory)) == 0
        asked = c_uint(_TEMPERATURE_OF_GPU)
        has_celsius = self._library.nvmlDeviceGetTemperature(device, asked, byref(celsius)) == 0
        return Gpu(
            index,
            name.value.decode(errors="replace"),
            utilization=used.gpu / 100 if has_used else None,
            memory_used=memory.used if has_memory else None,
            memory_size=memory.total if has_memory else None,
            temperature=celsius.value if has_celsius else None,
        )


def add_gpus(page: Page, gpus: Gpus) -> None:
    """Add what each GPU says of itself."""
    for gpu in gpus.look():
        labels = str(gpu.index), gpu.name
        page.add("gpt_gpu_utilization_ratio", gpu.utilization, *labels)
        page.add("gpt_gpu_memory_used_bytes", gpu.memory_used, *labels)
        page.add("gpt_gpu_memory_size_bytes", gpu.memory_size, *labels)
        page.add("gpt_gpu_temperature_celsius", gpu.temperature, *labels)
