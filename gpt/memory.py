"""Out of memory: how it shows itself, in a process and from outside, and how a person is told.

Torch on a GPU, torch's allocator for the processor, numpy, Python and the operating system each say it in their own way. The
kernel says nothing at all to a process that it kills to get memory back (SIGKILL): only who started that process can tell.
"""

import errno
import re
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gpt.errors import UserError
from gpt.limits import memory_kills, usable_memory

# In messages of RuntimeErrors that torch raises, for want of a type of their own: of its allocators on Linux and elsewhere,
# of C++, of the CUDA driver and of the libraries of CUDA that allocate by themselves, of Apple's GPUs.
_SIGNS = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc|CUDA error: out of memory|CUDA out of memory"
    r"|CU(BLAS|SOLVER|SPARSE|DNN)_STATUS_ALLOC_FAILED|MPS backend out of memory|Cannot allocate memory"
)
_ASKED = re.compile(
    r"(?:[Tt]ried to allocate|[Uu]nable to allocate|you tried to allocate) (\d[\d.]*) ?(bytes|[KMGT]?iB|[KMGT]?B)\b"
)
_WATCH_SECONDS = 60.0
_GPU = re.compile(r"CUDA|CUBLAS|CUSOLVER|CUSPARSE|CUDNN|MPS|HIP")


@contextmanager
def told_if_out_of_memory(advice: str) -> Iterator[None]:
    """Raise `UserError` with `advice` (what to change) instead of an error that says that there was not enough memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # what they hold: saying it takes some memory too
        raise UserError(f"{describe_want(error)}; {advice}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was asked for and not there. Torch is not imported to find that out."""
    if isinstance(error, MemoryError):  # numpy's and Arrow's are of this kind
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):  # of a library's code; "Operation not permitted" is a file system without exec
        return "failed to map segment" in str(error) and "not permitted" not in str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of GPUs, and Ray's
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def describe_want(error: BaseException) -> str:
    """Say in a few words which memory was too little, and how much was asked for if the error tells."""
    message = str(error)
    if _GPU.search(message):
        where = "out of GPU memory"
    else:
        where = "out of memory"
        with suppress(MemoryError, OSError):  # there may be too little even to find that out
            where += f", of which this process may use {in_units(usable_memory().total)}"
    if asked := _ASKED.search(message):
        size = in_units(int(asked[1])) if asked[2] == "bytes" else f"{asked[1]} {asked[2]}"
        return f"{where} ({size} more were asked for)"
    return where


def describe_kill(exit_code: int, *, by_kernel: bool = False) -> str:
    """Say what ended a process: `exit_code` as `subprocess` gives it; `by_kernel`: it has killed something for want of memory."""
    if exit_code != -signal.SIGKILL:
        return f"ended with exit code {exit_code}"
    if by_kernel:
        return "was killed by the kernel, which was out of memory"
    return f"ended with exit code {exit_code} (killed, as the kernel does when memory is short)"


class KillWatch:
    """Knows whether the kernel has killed a process for want of memory lately: since the watch began or, if it is looked at, in the
    last minute or two.

    The kernel counts a kill before the process ends, which may take it seconds: the count of a moment ago may have it already.
    A kill of days ago, on the other hand, says nothing about a process that ends now.
    """

    def __init__(self) -> None:
        self._before = self._newest = memory_kills()
        self._read_at = time.monotonic()

    def look(self) -> None:
        """Forget what was more than two minutes ago; costs little, however often it is called."""
        if time.monotonic() - self._read_at > _WATCH_SECONDS:
            self._before, self._newest, self._read_at = self._newest, memory_kills(), time.monotonic()

    def has_killed(self) -> bool:
        return memory_kills() > self._before


def in_units(size: float) -> str:
    """Return a number of bytes in the unit that reads best, as in 1.5 GiB."""
    units = iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
