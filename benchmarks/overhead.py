"""What orchestration costs, beside the bare tools in one run: `python -m benchmarks overhead` in a project that has run once.

Medians of interleaved rounds (the flow: 3).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flows.pipeline import STAGES

_ROUNDS = 5
_DVC = [sys.executable, "-m", "dvc"]
_ENVIRONMENT = os.environ | {"VIRTUAL_ENV": sys.prefix, "DVC_NO_ANALYTICS": "1"}


def measure() -> list[str]:
    """Return a markdown table."""
    header = ["| what | ours | beside it | ratio or difference |", "| --- | ---: | ---: | ---: |"]
    return [*header, compare_noop(), compare_help(), *compare_flow()]


def compare_noop() -> str:
    """`dvc repro` with nothing to do: six stages against a pipeline of one."""
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder)
        (one / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo 1 > out\n    outs: [out]\n", encoding="utf-8")
        subprocess.run([*_DVC, "init", "--no-scm", "-q"], cwd=one, check=True, env=_ENVIRONMENT)
        subprocess.run([*_DVC, "repro", "-q"], cwd=one, check=True, env=_ENVIRONMENT)
        ours, peer = _interleave(lambda: _run([*_DVC, "repro"]), lambda: _run([*_DVC, "repro"], one))
    return f"| `dvc repro` with nothing to do, against a one-stage pipeline | {ours:.2f} s | {peer:.2f} s | {ours / peer:.2f} × |"


def compare_help() -> str:
    """`gpt --help` against an interpreter that does nothing."""
    gpt = str(Path(sys.prefix, "bin", "gpt"))
    ours, peer = _interleave(lambda: _run([gpt, "--help"]), lambda: _run([sys.executable, "-c", "pass"]))
    return f"| `gpt --help`, against `python -c pass` | {ours:.3f} s | {peer:.3f} s | + {ours - peer:.3f} s |"


def compare_flow() -> list[str]:
    """The flow with an embedded server against the same commands one after the other, with every stage up to date."""

    def stages() -> float:
        seconds = sum(_run([*_DVC, "repro", "--single-item", stage]) for stage in STAGES)
        return seconds + _run([str(Path(sys.prefix, "bin", "gpt")), "register"])

    ours, peer = _interleave(lambda: _run([sys.executable, "-m", "flows.pretrain"]), stages, rounds=3)
    what = "`python -m flows.pretrain`, embedded server, against its DVC stages and `gpt register` by hand"
    return [f"| {what} | {ours:.1f} s | {peer:.1f} s | + {ours - peer:.1f} s |"]


def _interleave(ours: Callable[[], float], peer: Callable[[], float], rounds: int = _ROUNDS) -> tuple[float, float]:
    for once in (ours, peer):
        once()  # warms the disk cache
    pairs = [(ours(), peer()) for _ in range(rounds)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _run(command: Sequence[str], folder: Path = Path()) -> float:
    begun = time.perf_counter()
    subprocess.run(
        command, cwd=folder, check=True, env=_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - begun
