"""The table in a terminal: what it shows, that it fits, that it leaves the terminal clean, and what it costs."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from gpt.tracking.terminal.table import Row, State, draw, duration, legible
from tests import ROOT
from tests.tracking.terminal.screen import run_in_terminal, screen

FULL = State(
    max_steps=2000,
    now=Row(1240, 2.29, tokens_per_second=12345.6, mfu=0.123, memory_bytes=3 * 2**30),
    seconds_left=65,
    evaluations=tuple(Row(step, 3.0, 3.1, 2.5, 12000.0, 0.12, 3 * 2**30) for step in range(100, 1300, 100)),
    sample=(1200, "ROMEO:\nWhat\x1b[2J say \x07you? " + "ü王 " * 200),
)
RUN = """
import logging, sys
from gpt.entry import begin
from gpt.tracking.progress import Progress, Reading
begin()
logging.basicConfig(format="%(levelname)s: %(message)s")
progress = Progress(0, 30)
for step in (10, 20, 30):
    progress.update(step, 3.0 - step / 100, Reading(1234.5, 0.25, 2**30))
    progress.validation({"step": step, "validation_loss": 2.9 - step / 100, "validation_bits_per_byte": 2.1})
    progress.sample(step, f"sample of {step}")
    logging.warning("warned at %d", step)
    print("printed at", step)
progress.close()
progress.close()
print("after it")
"""


def environment(**more: str) -> dict[str, str]:
    """The environment of a process in a terminal, without what other tests or this machine say of terminals."""
    those = ("TERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM")
    kept = {name: value for name, value in os.environ.items() if name not in those}
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | more


def shown(state: State, columns: int, lines: int = 30, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=columns, height=lines, force_terminal=True)
    with console.capture() as capture:
        console.print(draw(state, columns, lines, encoding=encoding))
    return screen(re.sub(r"\x1b\[[\d;]*m", "", capture.get()).replace("\n", "\r\n"))[:-1]


def test_the_table_shows_the_last_evaluations_the_step_now_a_sample_and_the_time_left() -> None:
    lines = shown(FULL, 100)
    assert lines[0].split() == ["step", "loss", "validation", "bits/byte", "tokens/s", "MFU", "memory"]
    assert [line.split()[0] for line in lines[1:-2]] == [*(f"{step:,}" for step in range(500, 1300, 100)), "1,240"]
    assert lines[-3].split() == ["1,240", "2.290", "12,346", "12.3%", "3.0", "GiB"]
    assert lines[-2].startswith(" step 1,200 writes: ROMEO:⏎What [2J say  you? ü王")
    assert lines[-1].endswith(" 1,240/2,000  1:05 left")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("columns", [20, 41, 42, 60, 72, 200])
def test_the_table_is_never_wider_or_higher_than_the_terminal(columns: int, encoding: str) -> None:
    from rich.cells import cell_len

    for height in (4, 8, 30):
        lines = shown(FULL, columns, height, encoding)
        assert len(lines) <= max(4, height - 1)
        assert max(map(cell_len, lines)) <= columns
        "\n".join(lines).encode(encoding)


def test_a_model_that_writes_controls_moves_no_cursor() -> None:
    assert legible("a\x1b[31mb\rc\x9bd\u202ee\nf") == "a [31mb c d e⏎f"
    assert legible("ü\nβ", "latin-1") == "ü/?"


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.2, "0:05"), (65, "1:05"), (3725, "1:02:05"), (86400 * 3 + 4 * 3600, "3 d 4 h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_is_printed_and_logged_meanwhile_stands_above_the_table(tmp_path: Path) -> None:
    code, written = run_in_terminal([sys.executable, "-c", RUN], environment=environment(), folder=tmp_path)
    lines = screen(written)
    assert code == 0
    assert lines[:6] == [text for step in (10, 20, 30) for text in (f"WARNING: warned at {step}", f"printed at {step}")]
    assert [line.split()[0] for line in lines[6:10]] == ["step", "10", "20", "30"]
    assert lines[9].split() == ["30", "2.700", "2.6000", "2.1000", "1,234", "25.0%", "1.0", "GiB"]
    assert lines[10].strip() == "step 30 writes: sample of 30"
    assert lines[11].endswith(" 30/30")
    assert lines[12:] == ["after it", ""]


def test_no_color_colours_nothing_and_a_dumb_terminal_gets_lines(tmp_path: Path) -> None:
    plain = run_in_terminal([sys.executable, "-c", RUN], environment=environment(NO_COLOR="1"), folder=tmp_path)[1]
    assert not re.search(r"\x1b\[[\d;]*(3|4)\d[;m]", plain)
    for terminal in ("dumb", ""):
        _, written = run_in_terminal(
            [sys.executable, "-c", RUN], environment=environment(TERM=terminal), folder=tmp_path
        )
        assert "\x1b" not in written
        assert "step 30/30  loss 2.700  1,234 tok/s, MFU 25.0%  0:00 left\r\n" in written
        assert "step 20: validation loss 2.7000, 2.1000 bits per byte\r\n" in written


@pytest.fixture
def project(prepared_project: Path, copy_project: Callable[..., Path]) -> Path:
    intervals = {"log_interval": 5, "eval_interval": 30, "sample_interval": 30}
    return copy_project(prepared_project, train={"max_steps": 300, "batch_size": 8, **intervals})


@pytest.mark.slow
def test_ctrl_c_saves_and_leaves_the_table_and_a_clean_screen_and_the_next_start_goes_on(project: Path) -> None:
    def interrupt(written: str, terminal: int, process: int) -> None:
        if " writes: " in written and "\x03" not in typed:
            os.write(terminal, b"\x03")
            typed.append("\x03")

    typed: list[str] = []
    pretrain = [sys.executable, "-m", "gpt", "pretrain"]
    code, written = run_in_terminal(pretrain, environment=environment(), folder=project, answer=interrupt)
    lines = [line for line in screen(written) if line]
    assert code == 130, lines
    assert re.match(r"stopped by SIGINT", lines[-1]), lines
    stopped = re.search(r"━ +(\d+)/300", lines[-2])
    assert stopped, lines
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l"), "the cursor is there"
    code, written = run_in_terminal(pretrain, environment=environment(), folder=project)
    assert code == 0, written
    assert "resuming after step" in written
    assert any(line.endswith(" 300/300") for line in screen(written))


@pytest.mark.slow
def test_in_a_pipe_training_says_lines_and_nothing_for_a_terminal(project: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "gpt", "pretrain"], env=environment(), cwd=project, capture_output=True, check=True
    )
    assert b"\x1b" not in result.stdout + result.stderr
    assert b"step 300/300  loss " in result.stderr
    assert b"step 30: validation loss " in result.stderr
