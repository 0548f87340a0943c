"""What this process may use of its machine: cores, memory, open files. Often less than there is.

A batch system pins a job to some cores (affinity), a container has a share of time and memory (control groups, of Linux's
version 1 or 2), a shell limits open files (ulimit). What ignores them starts a thread for each of 96 cores where it has 4.
"""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROCESS = Path("/proc/self")
_VMSTAT = Path("/proc/vmstat")


class Memory(NamedTuple):
    """Bytes: all that this process, with the others of its control group, may ever have, and what is left of it now."""

    total: int
    available: int


def pinned_cores() -> set[int]:
    """Return the numbers of the cores that this process may run on."""
    # macOS has no affinity.
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def usable_cores(process: Path = PROCESS) -> int:
    """Return how many threads of this process can compute all the time, at least one.

    A share of 2.5 cores counts as 2: the third thread would stand still half of the time, and the others wait for it.
    """
    quota = cpu_quota(process)
    return len(pinned_cores()) if quota is None else max(1, min(len(pinned_cores()), int(quota)))


def cpu_quota(process: Path = PROCESS) -> float | None:
    """Return how many cores' time the control groups allow, as in `docker run --cpus 2.5`; None if they limit nothing."""
    quotas = [_quota(*_words(group, "cpu.max")) for group in control_groups("", process)]
    for group in control_groups("cpu", process):
        quotas.append(_quota(*_words(group, "cpu.cfs_quota_us"), *_words(group, "cpu.cfs_period_us")))
    return min((quota for quota in quotas if quota is not None), default=None)


def usable_memory(process: Path = PROCESS) -> Memory:
    """Return the machine's memory, or what the control groups allow of it where that is less."""
    import psutil  # not at the top: `gpt --help` needs none of it

    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for controller, names in (
        ("", ("memory.max", "memory.current", "inactive_file")),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ):
        for group in control_groups(controller, process):
            limit, used = (_number(group, name) for name in names[:2])
            if limit is None or limit >= machine.total:  # version 1 says "no limit" with a very large number
                continue
            # Pages of files that were read once are given up first; they are no need.
            used = (used or 0) - _statistics(group / "memory.stat").get(names[2], 0)
            total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(total, available)


def memory_kills(process: Path = PROCESS) -> int:
    """Return how many processes the kernel has killed for want of memory: of this control group, else of the whole machine.

    0 where neither is told, as on macOS.
    """
    for controller, name in (("memory", "memory.oom_control"), ("", "memory.events")):
        for group in control_groups(controller, process):
            statistics = _statistics(group / name)
            if "oom_kill" in statistics:
                return statistics["oom_kill"]
    return _statistics(_VMSTAT).get("oom_kill", 0)


def open_files() -> int:
    """Return how many files this process may have open at a time (`ulimit -n`); very many where there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def control_groups(controller: str, process: Path = PROCESS) -> Iterator[Path]:
    """Yield the folder of this process's control group and those above it, whose limits hold for it too.

    `controller` is `cpu` or `memory` for version 1, "" for version 2. Nothing is yielded where there are none.
    """
    own = next((path for names, path in _memberships(process) if controller in names), None)
    if own is None:
        return
    for mounted, place, kind, options in _mounts(process):
        if kind != ("cgroup" if controller else "cgroup2") or (controller and controller not in options):
            continue
        # A container may see only a part of the tree, mounted as if it were the whole of it, and itself outside ("/../..").
        is_seen = own.is_relative_to(mounted) and ".." not in own.parts
        group = place / own.relative_to(mounted) if is_seen else place
        group = group if group.is_dir() else place
        yield group
        yield from (above for above in group.parents if above.is_relative_to(place))
        return


def _memberships(process: Path) -> Iterator[tuple[list[str], Path]]:
    """Yield controllers and group of each line of /proc/self/cgroup; version 2's has the controller ""."""
    for line in _lines(process / "cgroup"):
        _, names, path = line.split(":", 2)
        yield names.split(","), Path(path)


def _mounts(process: Path) -> Iterator[tuple[Path, Path, str, list[str]]]:
    """Yield of each mount what of its file system is mounted, where, its type and its options (see proc(5))."""
    for line in _lines(process / "mountinfo"):
        ours, _, theirs = line.partition(" - ")
        fields, (kind, _, options) = ours.split(" "), theirs.split(" ", 2)
        root, place = (text.replace("\\040", " ") for text in fields[3:5])
        yield Path(root), Path(place), kind, options.split(",")


def _quota(allowed: str = "max", period: str = "") -> float | None:
    """Return cores from microseconds in a period; "max" and -1 say that there is no limit."""
    return int(allowed) / int(period) if allowed.isdecimal() and period.isdecimal() and int(period) else None


def _number(group: Path, name: str) -> int | None:
    words = _words(group, name)
    return int(words[0]) if words and words[0].isdecimal() else None


def _statistics(path: Path) -> dict[str, int]:
    """Return a file of lines with a name and a number, {} if there is none."""
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _words(group: Path, name: str) -> list[str]:
    return " ".join(_lines(group / name)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not on this system, or not ours to read
        return []
