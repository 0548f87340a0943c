"""What a process may use: less than the machine has, where affinity, a control group or ulimit says so."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gpt.limits import control_groups, cpu_quota, memory_kills, open_files, usable_cores, usable_memory
from tests import ROOT

MACHINE = psutil.virtual_memory().total
NO_LIMIT_V1 = 2**63 - 4096


class Tree:
    """A made-up /proc/self and the control groups that it names."""

    def __init__(self, folder: Path) -> None:
        self.process, self.groups = folder / "self", folder / "cgroup tree"
        self.process.mkdir()
        self.groups.mkdir()
        (self.process / "cgroup").touch()
        (self.process / "mountinfo").touch()

    def mount(self, kind: str, options: str, *, root: str = "/") -> Path:
        place = self.groups / options.rpartition(",")[2] if kind == "cgroup" else self.groups
        place.mkdir(exist_ok=True)
        escaped = str(place).replace(" ", r"\040")
        with (self.process / "mountinfo").open("a") as file:
            file.write(f"31 23 0:29 {root} {escaped} rw,nosuid shared:4 - {kind} {kind} {options}\n")
        return place

    def join(self, controllers: str, path: str) -> None:
        with (self.process / "cgroup").open("a") as file:
            file.write(f"4:{controllers}:{path}\n" if controllers else f"0::{path}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("own", "above", "quota"),
    [
        ("250000 100000", "max 100000", 2.5),
        ("max 100000", "150000 100000", 1.5),  # what holds for a group holds for all in it
        ("300000 100000", "150000 100000", 1.5),
        ("max 100000", "max 100000", None),
        ("max", "", None),
        ("", "0 0", None),  # nothing that a kernel writes
        ("50000 100000", "max 100000", 0.5),
    ],
)
def test_a_share_of_time_counts_in_version_2(tree: Tree, own: str, above: str, quota: float | None) -> None:
    place = tree.mount("cgroup2", "rw,nsdelegate")
    tree.join("", "/job/step")
    write(place / "job", cpu__max=above)
    write(place / "job/step", cpu__max=own)
    assert cpu_quota(tree.process) == quota
    there = len(os.sched_getaffinity(0))
    assert usable_cores(tree.process) == (there if quota is None else max(1, min(there, int(quota))))


@pytest.mark.parametrize(("microseconds", "quota"), [("150000", 1.5), ("-1", None), ("", None)])
def test_a_share_of_time_counts_in_version_1(tree: Tree, microseconds: str, quota: float | None) -> None:
    place = tree.mount("cgroup", "rw,cpuacct,cpu")
    tree.join("cpuacct,cpu", "/job")
    write(place / "job", cpu__cfs_quota_us=microseconds, cpu__cfs_period_us="100000")
    assert cpu_quota(tree.process) == quota


def test_memory_of_a_group_counts_without_the_files_it_has_read(tree: Tree) -> None:
    place, gib = tree.mount("cgroup2", "rw"), 2**30
    tree.join("", "/job/step")
    write(place / "job", memory__max="max")
    write(place / "job/step", memory__max=str(gib), memory__current=str(gib // 2))
    write(place / "job/step", memory__stat=f"anon {gib // 4}\ninactive_file {gib // 4}")
    assert usable_memory(tree.process) == (gib, 3 * gib // 4)


@pytest.mark.parametrize("limit", ["max", str(2 * MACHINE), "0x", ""])
def test_a_limit_that_is_none_is_the_machines_memory(tree: Tree, limit: str) -> None:
    tree.join("", "/")
    write(tree.mount("cgroup2", "rw"), memory__max=limit)
    assert usable_memory(tree.process).total == MACHINE


@pytest.mark.parametrize(("limit", "total"), [(2**30, 2**30), (NO_LIMIT_V1, MACHINE)])
def test_memory_of_a_group_counts_in_version_1(tree: Tree, limit: int, total: int) -> None:
    place = tree.mount("cgroup", "rw,memory")
    tree.join("memory", "/job")
    write(place / "job", memory__limit_in_bytes=str(limit), memory__usage_in_bytes="5", memory__stat="cache 1")
    memory = usable_memory(tree.process)
    assert memory.total == total and 0 < memory.available <= total


def test_a_container_sees_its_own_group_as_the_root(tree: Tree) -> None:
    """Docker without a namespace of its own for groups: the path is the host's, the mount only what is below it."""
    place = tree.mount("cgroup", "rw,memory", root="/docker/4711")
    tree.join("memory", "/docker/4711")
    assert list(control_groups("memory", tree.process)) == [place]


def test_a_group_that_cannot_be_seen_counts_as_the_root(tree: Tree) -> None:
    """As after a move out of a container's namespace, and where only a part of the tree is mounted."""
    place = tree.mount("cgroup2", "rw")
    tree.join("", "/../../other")
    assert list(control_groups("", tree.process)) == [place]


@pytest.mark.parametrize(
    ("version", "name", "text"),
    [("cgroup2", "memory__events", "low 0\noom 7\noom_kill 3"), ("cgroup", "memory__oom_control", "oom_kill 3")],
)
def test_the_kernels_kills_are_counted(tree: Tree, version: str, name: str, text: str) -> None:
    place = tree.mount(version, "rw,memory")
    tree.join("memory" if version == "cgroup" else "", "/job")
    write(place / "job", **{name: text})
    assert memory_kills(tree.process) == 3


def test_where_there_are_no_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    nowhere = tmp_path / "self"
    assert cpu_quota(nowhere) is None
    assert usable_memory(nowhere).total == MACHINE
    assert memory_kills(nowhere) >= 0


def run_here(code: str) -> str:
    command = [sys.executable, "-c", f"from gpt.limits import *; import os, resource\n{code}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_a_process_on_one_core_has_one() -> None:
    assert run_here("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(usable_cores())") == "1"


def test_ulimit_says_how_many_files_may_be_open() -> None:
    assert open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert run_here("resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); print(open_files())") == "64"


def test_in_a_real_control_group_the_limit_and_the_kill_are_seen(memory_group: Callable[[int], Path]) -> None:
    code = f"""
from pathlib import Path
Path({str(memory_group(200 * 2**20))!r}, "cgroup.procs").write_text(str(os.getpid()))
before = memory_kills()
if (child := os.fork()) == 0:
    bytearray(400 * 2**20)
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(usable_memory().total // 2**20, code, memory_kills() - before)"""
    assert run_here(code) == "200 -9 1"
