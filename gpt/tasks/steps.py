"""Steps of a task that write files, and how these outlive a power cut: a mark says that a task is done, so it must be the last."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from gpt.files import fsync_path
from gpt.tasks.reports import write_report


class WritingStep(PipelineStep):
    """A step that asks `new_file` for the place of each file it writes: the executor syncs them before the task counts as done."""

    type = "gpt"

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Path] = []

    def new_file(self, path: Path) -> Path:
        """Return `path`, in a folder that is there, and note that this task writes it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.written.append(path)
        return path

    def write_report(self, folder: Path, rank: int, value: Any) -> None:
        """Write what this task counted, for `read_reports(folder)`."""
        write_report(self.new_file(folder / f"{rank:05d}.json"), value)


def sync_files(files: Iterable[Path], beside: Path) -> None:
    """Bring files to the disk, and the entries of all folders on their way from the folder that `beside` is in too.

    Then they are there whenever something that is written to `beside` later is.
    """
    beside, folders = beside.resolve(), set[Path]()
    for path in (file.resolve() for file in files):
        fsync_path(path)
        shared = Path(os.path.commonpath([path, beside]))
        folders |= {folder for folder in path.parents if folder.is_relative_to(shared)}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        fsync_path(folder)
