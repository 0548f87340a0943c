import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests import ROOT


def run_and_kill(code: str, root: Path, phase: str) -> dict[Path, int]:
    """Run code in a process of its own and SIGKILL it when a phase has its first mark; return the times of all marks.

    `phase` is a pattern of the folder, in `root`, that has the `completions`.
    """
    command = [sys.executable, "-c", code, str(root)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not any(root.glob(f"{phase}/completions/*")):
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    marks = {path: path.stat().st_mtime_ns for path in root.glob(f"{phase.rpartition('/')[0]}/*/completions/*")}
    assert marks, "what was done"
    return marks
