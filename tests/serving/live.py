"""A server as users start it: the process `gpt serve`."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


@contextmanager
def running_server(
    project: Path, models: Sequence[Path | str], *options: str, seconds: float = 180.0, **environment: str
) -> Iterator[Server]:
    """Run `gpt serve` in a project until the end of the block; it answers when the block begins."""
    command = [sys.executable, "-m", "gpt", "serve", "--port", "0", *options]
    command += [part for model in models for part in ("--model", str(model))]
    log = project / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=project, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + seconds
        while not (found := re.search(r"^(http://\S+)  the page", log.read_text(encoding="utf-8"), re.M)):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "it does not begin to answer"
            time.sleep(0.05)
        yield Server(found[1], process, log)
    finally:
        process.terminate()  # a group of its own would hide Ctrl-C from it, and it has no children
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
