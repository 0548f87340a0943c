"""The checkpoints of a run as they lie on the disk, and the room that is left. Nothing of them is opened."""

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from time import time

from flows.upkeep.journals import Run
from gpt.paths import CHECKPOINTS
from infra.metrics.page import Page

# As in gpt/training/checkpoints/checkpoint.py, which imports torch: half a gigabyte for an exporter. The manifest is written last.
_MANIFEST = "manifest.json"
_STEP = "step_"
_STAT_SECONDS = 10.0
_PLACES = {"project": Path(), "checkpoints": CHECKPOINTS, "dvc_cache": Path(".dvc/cache")}


def add_checkpoints(page: Page, run: Run) -> None:
    """Add the newest checkpoint of a run, and how many there are."""
    labels = run.experiment, run.name
    found = sorted(run.checkpoints.glob(f"{_STEP}*"))
    page.add("gpt_checkpoints", len(found), *labels)
    page.add("gpt_checkpoint_step", int(found[-1].name.removeprefix(_STEP)) if found else 0, *labels)
    if not found:
        return
    try:
        written = (found[-1] / _MANIFEST).stat().st_mtime_ns
        size = sum(file.stat().st_size for file in found[-1].iterdir())
    except FileNotFoundError:  # removed meanwhile, or damaged
        return
    page.add("gpt_checkpoint_age_seconds", max(0.0, time() - written / 1e9), *labels)
    page.add("gpt_checkpoint_size_bytes", size, *labels)
    page.add("gpt_checkpoint_save_seconds", _save_seconds(found[-1], written), *labels)


def add_disks(page: Page) -> None:
    """Add what is left on the disks that a run writes to."""
    for place, folder in _PLACES.items():
        if folder.exists():
            usage = shutil.disk_usage(folder)
            page.add("gpt_disk_free_bytes", usage.free, place)
            page.add("gpt_disk_size_bytes", usage.total, place)


@lru_cache(maxsize=64)
def _save_seconds(checkpoint: Path, written_ns: int) -> float | None:
    """Return the time from the making of a checkpoint's folder to its manifest; None where a file system does not know.

    A rename leaves a folder its time of birth, which Python's `os.stat` does not tell on Linux.
    """
    try:
        done = subprocess.run(
            ["stat", "--format=%.6W", str(checkpoint)],
            capture_output=True,
            text=True,
            timeout=_STAT_SECONDS,
            check=True,
        )
        born = float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return max(0.0, written_ns / 1e9 - born) if born > 0 else None
