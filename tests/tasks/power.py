import os
import shutil
from pathlib import Path

import pytest

from gpt.tasks.work import IDENTITY


class Disk:
    """Notes what is synced, to lose all else as a power cut may: the worst case, in which the marks of what is done are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[int, int] = {}
        "Bytes of each file, by its inode, when it was synced last."
        self.entries: dict[int, set[str]] = {}
        "Names in each folder when it was synced last."
        fsync = os.fsync

        def note(descriptor: int) -> None:
            fsync(descriptor)
            path, inode = Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor).st_ino
            if path.is_dir():
                self.entries[inode] = {entry.name for entry in path.iterdir()}
            else:
                self.sizes[inode] = os.fstat(descriptor).st_size

        monkeypatch.setattr(os, "fsync", note)

    def is_safe(self, path: Path, root: Path) -> bool:
        """Tell whether a file and its way from the folder `root` are on the disk as they are now."""
        way = [path, *(parent for parent in path.parents if parent.is_relative_to(root) and parent != root)]
        named = all(each.name in self.entries.get(each.parent.stat().st_ino, set()) for each in way)
        return named and self.sizes.get(path.stat().st_ino) == path.stat().st_size

    def cut_power(self, root: Path) -> None:
        """Lose what is not synced of the folder of work `root`, but for what says that it is done."""
        for path in sorted(root.rglob("*")):
            if path.relative_to(root).parts[0] in ("tasks", IDENTITY) or not path.exists():
                continue
            if path.name not in self.entries.get(path.parent.stat().st_ino, set()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif path.is_file():
                os.truncate(path, min(self.sizes.get(path.stat().st_ino, 0), path.stat().st_size))
