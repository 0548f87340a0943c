"""A command's whole tree is ours: what it says, how it ends, and that nothing of it outlives us."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.processes.trees import running
from tests.living import is_alive

WaitFor = Callable[[Callable[[], Any]], Any]
PYTHON = shlex.quote(sys.executable)

# A trainer below a shell below a tool that does not pass signals on, as `dvc repro` runs it, with a worker in a session
# of its own, as torchrun makes them. Every one writes its pid; the trainer says what it does when it is told to stop.
TRAINER = """
import os, signal, subprocess, sys, time
from pathlib import Path
if sys.argv[1] == "worker":
    os.setsid()
else:
    subprocess.Popen([sys.executable, __file__, "worker", *sys.argv[2:]])
def say(line):
    sys.stdout.write(line + "\\n")  # in one piece, as two of us write to one pipe
    sys.stdout.flush()
def stop(*_):
    if "stubborn" in sys.argv:
        return say("no")
    say(f"{sys.argv[1]} saved")
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
Path(f"{sys.argv[1]}.tmp").write_text(str(os.getpid()))
Path(f"{sys.argv[1]}.tmp").rename(f"{sys.argv[1]}.pid")
say(f"{sys.argv[1]} ready")
while True:
    time.sleep(60)
"""

# A trainer that needs a second to save.
SAVES_SLOWLY = """
import signal, sys, time
from pathlib import Path
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
Path("training").touch()
while not told:
    time.sleep(0.01)
Path("stopping").touch()
time.sleep(1)
Path("saved").touch()
"""


@pytest.fixture
def tree(tmp_path: Path) -> list[str]:
    """The command that starts the tree in its current folder."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    return ["sh", "-c", f"{PYTHON} trainer.py trainer $0; echo done", "patient"]


def run(command: list[str], folder: Path, **settings: Any) -> tuple[int, list[str]]:
    lines: list[str] = []
    return running.run(command, cwd=folder, on_line=lines.append, **settings), lines


def pids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("*.pid")]


def both_ready(folder: Path) -> list[int]:
    found = pids(folder)
    return found if len(found) == 2 else []


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_exit_code_is_the_commands(tmp_path: Path) -> None:
    assert run(["sh", "-c", "exit 7"], tmp_path) == (7, [])


def test_death_by_a_signal_is_128_plus_its_number(tmp_path: Path) -> None:
    assert run(["sh", "-c", "kill -9 $$"], tmp_path) == (137, [])


def test_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    assert run(["no-such-command"], tmp_path) == (127, ["error: no-such-command: No such file or directory"])


def test_output_and_errors_arrive_in_order(tmp_path: Path) -> None:
    code, lines = run(["sh", "-c", "echo one; echo two >&2; echo; printf three"], tmp_path)
    assert (code, lines) == (0, ["one", "two", "", "three"])


def test_lines_arrive_while_the_command_runs(tmp_path: Path) -> None:
    """The command waits for a file that only the line's arrival makes."""

    def on_line(line: str) -> None:
        (tmp_path / line).touch()

    command = ["sh", "-c", "echo heard; until [ -e heard ]; do sleep 0.01; done; exit 4"]
    assert running.run(command, cwd=tmp_path, on_line=on_line, timeout_seconds=30) == 4


def test_command_gets_the_environment_and_the_folder_and_no_input(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo $GREETING; pwd -P; cat"]
    assert run(command, tmp_path, env=os.environ | {"GREETING": "hello"}) == (0, ["hello", str(tmp_path.resolve())])


def test_invalid_utf8_is_replaced(tmp_path: Path) -> None:
    assert run(["printf", r"caf\351\n"], tmp_path) == (0, ["caf\ufffd"])


def test_progress_bar_is_thinned_out_and_its_end_is_kept() -> None:
    lines: list[str] = []
    splitter = running.Lines(lines.append)
    for percent in range(100):
        splitter.feed(f"\r{percent}%".encode())
    splitter.feed(b"\r100%\n")
    splitter.close()
    assert lines == ["0%", "100%"]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))), st.data())
def test_lines_are_whole_however_the_bytes_are_cut(texts: list[str], data: st.DataObject) -> None:
    """Windows and Unix line ends, any characters, any chunks."""
    ends = [data.draw(st.sampled_from(["\n", "\r\n"])) for _ in texts]
    content = "".join(text + end for text, end in zip(texts, ends, strict=True)).encode()
    lines: list[str] = []
    splitter = running.Lines(lines.append)
    while content:
        size = data.draw(st.integers(1, len(content)))
        splitter.feed(content[:size])
        content = content[size:]
    splitter.close()
    assert lines == texts


def test_timeout_stops_the_whole_tree_and_lets_it_save(tmp_path: Path, tree: list[str]) -> None:
    lines: list[str] = []
    with pytest.raises(TimeoutError, match="not finished after 2 seconds"):
        running.run(tree, cwd=tmp_path, on_line=lines.append, timeout_seconds=2)
    assert {"trainer saved", "worker saved"} <= set(lines)
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


def test_exception_in_the_caller_stops_the_tree_and_goes_on(tmp_path: Path, tree: list[str]) -> None:
    said: list[str] = []

    def on_line(line: str) -> None:
        said.append(line)
        if both_ready(tmp_path) and "raised" not in said:
            said.append("raised")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.run(tree, cwd=tmp_path, on_line=on_line, timeout_seconds=60)
    assert len(pids(tmp_path)) == 2
    assert "trainer saved" in said
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


def test_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path, tree: list[str]) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        run([*tree[:-1], "stubborn"], tmp_path, timeout_seconds=2, grace_seconds=0.5)
    assert time.monotonic() - began < 10
    assert len(pids(tmp_path)) == 2
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


def test_second_interrupt_does_not_wait_for_the_grace(
    tmp_path: Path, tree: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_SAME_STOP_SECONDS", 0.0)

    def on_line(line: str) -> None:
        if both_ready(tmp_path):
            raise KeyboardInterrupt  # at its readiness, and again at its refusal to stop

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        running.run([*tree[:-1], "stubborn"], cwd=tmp_path, on_line=on_line, grace_seconds=120)
    assert time.monotonic() - began < 60
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


def test_a_stop_that_is_told_twice_at_once_still_leaves_time_to_save(tmp_path: Path, wait_for: WaitFor) -> None:
    """Prefect's worker, itself told to stop, tells the flow, which whoever stops the whole tree has told already."""
    (tmp_path / "slow.py").write_text(SAVES_SLOWLY)
    caller = subprocess.Popen(
        python(
            "import signal, sys; from pathlib import Path; from gpt.processes.trees import running;"
            "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number));"
            f"running.run({[sys.executable, 'slow.py']!r}, cwd=Path({str(tmp_path)!r}), on_line=lambda _: None)"
        ),
        cwd=Path(__file__).parents[3],
    )
    wait_for((tmp_path / "training").exists)
    caller.terminate()
    wait_for((tmp_path / "stopping").exists)
    caller.terminate()
    assert caller.wait(timeout=60) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()


def test_what_the_command_leaves_running_is_stopped(tmp_path: Path, tree: list[str], wait_for: WaitFor) -> None:
    code, _ = run(["sh", "-c", f"{PYTHON} trainer.py trainer & until [ -e worker.pid ]; do sleep 0.01; done"], tmp_path)
    assert code == 0
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_caller_that_is_killed(
    tmp_path: Path, tree: list[str], wait_for: WaitFor, number: signal.Signals
) -> None:
    """Not the tool, not the trainer, not a worker in a session of its own; and the trainer could save."""
    caller = subprocess.Popen(
        python(
            "import sys; from pathlib import Path; from gpt.processes.trees import running;"
            f"running.run({tree!r}, cwd=Path({str(tmp_path)!r}), on_line=lambda _: None)"
        ),
        cwd=Path(__file__).parents[3],
    )
    ready = wait_for(lambda: both_ready(tmp_path))
    below = psutil.Process(caller.pid).children(recursive=True)
    assert {*ready} <= {process.pid for process in below}
    caller.send_signal(number)
    caller.wait(30)
    wait_for(lambda: not any(is_alive(process) for process in below))


def test_nothing_of_its_session_outlives_a_killed_supervisor(tmp_path: Path, wait_for: WaitFor) -> None:
    """The shell's parent is the supervisor; it kills that."""
    code, _ = run(
        ["sh", "-c", f"kill -9 $PPID; echo $$ > shell.pid; exec {PYTHON} -c 'import time; time.sleep(60)'"], tmp_path
    )
    assert code == 137
    wait_for(lambda: not any(is_alive(pid) for pid in pids(tmp_path)))


def test_command_beside_us_ends_with_the_block(tmp_path: Path, tree: list[str], wait_for: WaitFor) -> None:
    with (
        (tmp_path / "log").open("wb") as log,
        running.started(tree, cwd=tmp_path, output=log.fileno()) as process,
    ):
        wait_for(lambda: both_ready(tmp_path))
        assert process.poll() is None
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []
    assert "trainer saved" in (tmp_path / "log").read_text()
