"""A real file system without room for a save: the checkpoint before it stays, training goes on, later saves try again."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt import paths
from gpt.training.checkpoints import checkpoint as checkpoints
from tests.chaos.conftest import Family, checkpoint_folder, start_training

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

WEIGHTS = paths.BASE_MODEL / "model.safetensors"


class Disk:
    """A file system of its own size at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, size: int, *options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    disk.folder.mkdir()
    try:
        disk.mount(2**20)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file systems to mount here: {getattr(error, 'stderr', error)}")
    yield disk
    subprocess.run(["umount", str(disk.folder)], check=True)


def first_checkpoint(folder: Path) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = checkpoint_folder(folder)
        if found and (saved := checkpoints.steps(found)):
            return saved[0]
        time.sleep(0.001)
    raise AssertionError("no checkpoint")


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """Return the first line of a process's errors that has `text` in it."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"it ended with {process.wait()}")


def test_a_disk_a_tenth_too_small_for_a_save_loses_nothing(
    make_prepared_project: Callable[..., Path], disk: Disk, family: Family
) -> None:
    settings = {"max_steps": 120, "checkpoint_interval": 10, "checkpoint_keep_last": 1, "eval_interval": 120}
    settings |= {"checkpoint_keep_stable": 0}  # it would need room as well
    change = {"train": settings, "model": {"n_embd": 128, "n_layer": 2, "dropout": 0.1}}
    folder = make_prepared_project("room", **change)
    process = start_training(family)
    checkpoint = first_checkpoint(folder)
    process.send_signal(signal.SIGSTOP)  # it would go, as soon as there is a newer one
    size = sum(file.stat().st_blocks * 512 for file in checkpoint.iterdir())
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    expected = WEIGHTS.read_bytes()

    folder = make_prepared_project("full", **change)
    paths.CHECKPOINTS.symlink_to(disk.folder)
    disk.mount(int(1.9 * size), "remount")  # beside the checkpoint before it, a save finds nine tenths of what it needs
    process = start_training(family)
    read_until(process, "checkpoint of step 30 was not saved (")
    process.kill()
    process.communicate()
    process = start_training(family)
    warning = read_until(process, "checkpoint of step 20 was not saved (")
    assert "No space left on device" in warning
    assert "make room in checkpoints" in warning
    disk.mount(3 * size, "remount")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "resuming after step 10 of 120" in output
    assert "step 120 was not saved" not in errors
    assert WEIGHTS.read_bytes() == expected
    assert not list(disk.folder.iterdir())
