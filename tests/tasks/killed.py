import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT


def run_and_kill(code: str, root: Path, phase: str) -> dict[Path, int]:
    """Run code in a process of its own, SIGKILL it as soon as `root/<phase>/completions` has a mark; return all marks' times."""
    command = [sys.executable, "-c", code, str(root)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    done = root / phase / "completions"
    deadline = time.monotonic() + 60
    while not (done.is_dir() and any(done.iterdir())):
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    marks = {path: path.stat().st_mtime_ns for path in done.parent.parent.rglob("completions/*")}
    assert marks, "what was done"
    return marks
