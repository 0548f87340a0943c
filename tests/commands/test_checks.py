"""`gpt doctor` says what a machine does not allow: each is lowered here, and must be told."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt.commands.checks import machine
from tests import ROOT

NOBODY = 65534


def findings(folder: Path, before: str = "", **variables: str) -> dict[str, tuple[str, str]]:
    """Return what the checks of the machine and of places say in a folder, after some code has run in their process."""
    code = f"""
import os, resource
{before}
from gpt.commands.checks import machine, project
for kind, subject, text in [*machine.machine(), *project.places()]:
    print(kind, subject, text, sep="|")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (line.split("|") for line in done.stdout.splitlines())
    return {subject: (kind, text) for kind, subject, text in lines}


def test_an_ordinary_machine_has_all(tmp_path: Path) -> None:
    found = findings(tmp_path, TMPDIR=str(tmp_path))
    assert found["temporary"] == ("ok", str(tmp_path))
    assert found["processor"][0] == "ok" and "folders" not in found
    assert not list(tmp_path.iterdir()), "doctor looks only"


def test_cores_that_may_not_be_used_are_told(tmp_path: Path) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core")
    found = findings(tmp_path, "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})")
    assert found["processor"] == ("ok", f"1 of {os.cpu_count()} cores may be used: pinned to 1")


@pytest.mark.parametrize(
    ("limit", "subject", "kind", "text"),
    [
        ("RLIMIT_NOFILE, (100, 100)", "open files", "note", "at most 100"),
        (
            "RLIMIT_AS, (2**30, 2**30)",
            "memory",
            "missing",
            "`ulimit -v` allows a process 1.0 GiB; the default run takes",
        ),
        ("RLIMIT_DATA, (2**40, 2**40)", "memory", "ok", "`ulimit -d` allows a process 1.0 TiB"),
        ("RLIMIT_FSIZE, (0, 0)", "temporary", "missing", "set TMPDIR to one that can"),
    ],
)
def test_what_a_shell_limits_is_told(tmp_path: Path, limit: str, subject: str, kind: str, text: str) -> None:
    found = findings(tmp_path, f"resource.setrlimit(resource.{limit})")
    assert found[subject][0] == kind and text in found[subject][1]


def test_what_a_control_group_allows_is_told(tmp_path: Path, memory_group: Callable[[int], Path]) -> None:
    group = memory_group(2**29)
    found = findings(tmp_path, f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))")
    assert found["memory"][0] == "missing"
    assert "of 512 MiB free; a control group allows no more of the machine's" in found["memory"][1]


@pytest.mark.parametrize("name", ["TMPDIR", "TEMP"])
def test_a_temporary_folder_that_is_none_is_told_with_what_is_used_instead(tmp_path: Path, name: str) -> None:
    others = {other: "" for other in ("TMPDIR", "TEMP", "TMP") if other != name}
    kind, text = findings(tmp_path, **others | {name: str(tmp_path / "gone")})["temporary"]
    assert kind == "note" and text.startswith(f"{name} = {tmp_path / 'gone'} cannot be written; /")


@pytest.mark.parametrize("closed", [".", "data", "checkpoints", ".dvc"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, closed: str) -> None:
    folder = tmp_path / "project"
    for name in (".", "data", "checkpoints", ".dvc"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name).chmod(0o777)
    (folder / closed).chmod(0o555)
    # Root may write everywhere. Everything is imported before: our own code may be closed to another user.
    become = "" if os.geteuid() else f"os.setgid({NOBODY}); os.setuid({NOBODY})"
    code = f"import psutil\nfrom gpt.commands.checks import machine, project\n{become}"
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(0o755)
    try:
        kind, text = findings(folder, code)["folders"]
    finally:
        (folder / closed).chmod(0o755)
    name = str(folder) if closed == "." else closed
    assert kind == "missing"
    assert text.startswith(f"cannot be written: {name}; ")


def test_each_disk_that_is_written_to_is_looked_at(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm/gpt-test-disk")
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    elsewhere.mkdir(exist_ok=True)
    try:
        (tmp_path / "checkpoints").symlink_to(elsewhere)
        assert "free for checkpoints" in findings(tmp_path)["disk"][1]
    finally:
        shutil.rmtree(elsewhere)


def test_little_shared_memory_matters_to_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = shutil.disk_usage(tmp_path).total
    assert [*machine.shared_memory(8, tmp_path)] == []
    monkeypatch.setattr(machine, "_NCCL_BYTES", size + 1)
    ((kind, _, text),) = machine.shared_memory(8, tmp_path)
    assert kind == "missing" and "--shm-size" in text
    assert [*machine.shared_memory(1, tmp_path)] == []
    assert [*machine.shared_memory(8, tmp_path / "none")] == []
