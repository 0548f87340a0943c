"""Out of memory: how it shows itself, in a process and from outside, and how a person is told.

Torch on a GPU, torch's allocator for the processor, numpy, Python and the operating system each say it in their own way. The
kernel says nothing at all to a process that it kills to get memory back (SIGKILL): only who started that process can tell.
"""

import errno
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from gpt.errors import UserError
from gpt.limits import usable_memory

# In messages of RuntimeErrors that torch raises, for want of a type of their own: of its allocators on Linux and elsewhere,
# of C++, of the CUDA driver and of the libraries of CUDA that allocate by themselves, of Apple's GPUs.
_SIGNS = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc|CUDA error: out of memory|CUDA out of memory"
    r"|CU(BLAS|SOLVER|SPARSE|DNN)_STATUS_ALLOC_FAILED|MPS backend out of memory|Cannot allocate memory"
)
_ASKED = re.compile(
    r"(?:[Tt]ried to allocate|[Uu]nable to allocate|you tried to allocate) (\d[\d.]*) ?(bytes|[KMGT]?iB|[KMGT]?B)\b"
)
_GPU = re.compile(r"CUDA|CUBLAS|CUSOLVER|CUSPARSE|CUDNN|MPS|HIP")


@contextmanager
def told_if_out_of_memory(advice: str) -> Iterator[None]:
    """Raise `UserError` with `advice` (what to change) instead of an error that says that there was not enough memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{describe_want(error)}; {advice}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was asked for and not there. Torch is not imported to find that out."""
    if isinstance(error, MemoryError):  # numpy's and Arrow's are of this kind
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    return type(error).__name__ == "OutOfMemoryError" or _SIGNS.search(str(error)) is not None


def describe_want(error: BaseException) -> str:
    """Say in a few words which memory was too little, and how much was asked for if the error tells."""
    message = str(error)
    if type(error).__name__ == "OutOfMemoryError" or _GPU.search(message):
        where = "out of GPU memory"
    else:
        where = f"out of memory, of which this process may use {in_units(usable_memory().total)}"
    if asked := _ASKED.search(message):
        size = in_units(int(asked[1])) if asked[2] == "bytes" else f"{asked[1]} {asked[2]}"
        return f"{where} ({size} more were asked for)"
    return where


def describe_kill(exit_code: int, kills: int) -> str:
    """Say what ended a process: `exit_code` as `subprocess` gives it, `kills` by the kernel for want of memory meanwhile."""
    if exit_code != -signal.SIGKILL:
        return f"ended with exit code {exit_code}"
    if kills:
        return "was killed by the kernel, which was out of memory"
    return "was killed (SIGKILL), as the kernel does when memory is short"


def in_units(size: float) -> str:
    """Return a number of bytes in the unit that reads best, as in 1.5 GiB."""
    units = iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
