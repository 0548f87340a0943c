"""A step whose tasks can be made to fail; a module of its own, as each process that runs one imports it."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from gpt.errors import UserError


class Note(PipelineStep):
    """Notes in a folder that a task ran, and then does what `then` says for it."""

    name = type = "note"

    def __init__(self, folder: Path, then: dict[int, str] | None = None) -> None:
        super().__init__()
        self.folder, self.then, self.count = folder, then or {}, 0

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.count += 1
        with (self.folder / f"{rank}").open("a") as file:
            file.write(f"{self.count} of {world_size}\n")
        match self.then.get(rank):
            case "user error":
                raise UserError(f"file {rank}: cannot be read")
            case "bug":
                raise ZeroDivisionError
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                os.abort()
            case "memory":
                bytearray(2**50)
        yield from ()
