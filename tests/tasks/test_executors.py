import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from datatrove.data import Document
from datatrove.executor.base import PipelineExecutor

from gpt.errors import UserError
from gpt.params.engine import Engine
from gpt.tasks.executors import Tasks
from gpt.tasks.steps import WritingStep
from tests import ROOT
from tests.living import is_alive
from tests.tasks.note import Note
from tests.tasks.power import Disk


def engine(kind: str = "local", workers: int = 2, memory_gb: int = 1) -> Engine:
    return Engine.model_validate(
        {"kind": kind, "workers": workers, "memory_gb": memory_gb, "slurm_partition": "", "slurm_time": "1:00:00"}
    )


def ran(folder: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in folder.iterdir()}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once_with_steps_of_its_own(tmp_path: Path, notes: Path, workers: int) -> None:
    with Tasks(engine(workers=workers), tmp_path / "work") as tasks:
        tasks.run("a", 5, Note(notes))
        tasks.run("a", 5, Note(notes))  # done: nothing runs
    assert ran(notes) == {str(rank): ["1 of 5"] for rank in range(5)}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_users_error_of_the_first_task_is_told_and_what_was_done_stays(
    tmp_path: Path, notes: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with Tasks(engine(workers=workers), tmp_path / "work") as tasks:
        with pytest.raises(UserError, match="file 1: cannot be read"):
            tasks.run("a", 2, Note(notes, {1: "user error"}))
        tasks.run("a", 2, Note(notes))
    assert ran(notes) == {"0": ["1 of 2"], "1": ["1 of 2", "1 of 2"]}
    assert capfd.readouterr() == ("", ""), "a person reads the one message, not the library's logs"


def test_a_bug_is_raised(tmp_path: Path, notes: Path) -> None:
    with Tasks(engine(), tmp_path / "work") as tasks, pytest.raises(ZeroDivisionError):
        tasks.run("a", 2, Note(notes, {0: "bug"}))


class Write(WritingStep):
    name = "write"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.new_file(self.folder / "deep" / f"{rank}").write_text("done")
        self.write_report(self.folder / "reports", rank, {"count": 1})
        yield from ()


def test_what_a_task_wrote_is_on_the_disk_before_its_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, seen = Disk(monkeypatch), []
    mark = PipelineExecutor.mark_rank_as_completed

    def check(self: PipelineExecutor, rank: int) -> None:
        files = (tmp_path / "deep" / f"{rank}", tmp_path / "reports" / f"{rank:05d}.json")
        seen.append([disk.is_safe(path, tmp_path) for path in files])
        mark(self, rank)

    monkeypatch.setattr(PipelineExecutor, "mark_rank_as_completed", check)
    with Tasks(engine(workers=1), tmp_path / "tasks") as tasks:
        tasks.run("write", 2, Write(tmp_path))
    assert seen == [[True, True], [True, True]]


@pytest.mark.parametrize("tasks", [4, 40])
def test_a_killed_worker_is_an_error_and_not_a_wait_for_ever(tmp_path: Path, notes: Path, tasks: int) -> None:
    """What is done already stays done, and the user is told what may have been too much."""
    message = r"worker process ended with exit code -9 \(killed, as the kernel does .*; params.yaml: lower prepare.engine.workers"
    with Tasks(engine(), tmp_path / "work") as run, pytest.raises(UserError, match=message):
        run.run("a", tasks, Note(notes, {0: "killed"}))
    done = [str(int(mark.name)) for mark in tmp_path.glob("work/a/completions/*")]
    with Tasks(engine(), tmp_path / "work") as run:
        run.run("a", tasks, Note(notes))
    assert len(ran(notes)["0"]) == 2
    assert [len(ran(notes)[rank]) for rank in done] == [1] * len(done)
    assert tasks + 1 <= sum(map(len, ran(notes).values())) <= tasks + 2, (
        "the other worker's task may have been cut short too"
    )


def test_a_worker_that_the_broken_pool_forgot_is_ended_and_not_waited_for(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is being started when another dies: the pool ends those that it knows of, and then waits for all."""
    monkeypatch.setattr(ForkServerProcess, "terminate", lambda process: None)
    monkeypatch.setattr("concurrent.futures.process._ExecutorManagerThread.shutdown_workers", lambda thread: None)
    with Tasks(engine(), tmp_path / "work") as tasks, pytest.raises(UserError, match="exit code -9"):
        tasks.run("a", 40, Note(notes, {30: "killed"}))


def test_a_worker_that_crashes_is_a_bug_and_no_want_of_memory(tmp_path: Path, notes: Path) -> None:
    with Tasks(engine(), tmp_path / "work") as tasks, pytest.raises(RuntimeError, match=r"ended with exit code -6$"):
        tasks.run("a", 4, Note(notes, {0: "crash"}))


@pytest.mark.parametrize(
    ("kind", "workers", "advice"),
    [
        ("local", 1, r"raise prepare\.shards, so that each task has less"),
        ("local", 2, r"lower prepare\.engine\.workers \(2 work at a time\)"),
        pytest.param("ray", 2, r"lower prepare\.engine\.workers \(2 work at a time\)", marks=pytest.mark.slow),
    ],
)
def test_a_task_that_wants_too_much_memory_says_what_takes_less(
    tmp_path: Path, notes: Path, kind: str, workers: int, advice: str
) -> None:
    with (
        Tasks(engine(kind, workers), tmp_path / "work") as tasks,
        pytest.raises(UserError, match=rf"out of memory, of which .*; params\.yaml: {advice}"),
    ):
        tasks.run("a", 4, Note(notes, {2: "memory"}))


def test_as_many_tasks_run_at_a_time_as_cores_may_be_used(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from gpt.tasks.executors import Tasks
from tests.tasks.test_executors import engine
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(Tasks(engine(workers=0), Path(sys.argv[1]))._workers)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout == "1\n"


SLEEPER = """
import sys, time
from pathlib import Path
from gpt.tasks.executors import Tasks
from gpt.tasks.steps import WritingStep
from tests.tasks.test_executors import Sleep, engine
if __name__ == "__main__":
    with Tasks(engine(), Path(sys.argv[1])) as tasks:
        tasks.run("a", 2, Sleep(Path(sys.argv[1])))
"""


class Sleep(Note):
    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        (self.folder / f"pid{rank}").write_text(str(os.getpid()))
        time.sleep(600)
        yield from ()


def wait_for(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_end_with_the_process_that_was_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)])
    files = [tmp_path / f"pid{rank}" for rank in range(2)]
    wait_for(lambda: all(path.exists() and path.read_text() for path in files))
    workers = [int(path.read_text()) for path in files]
    process.kill()
    process.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in workers))


@pytest.mark.slow
def test_ray_runs_the_same_tasks_and_tells_the_users_error(tmp_path: Path, notes: Path) -> None:
    with Tasks(engine("ray"), tmp_path / "work") as tasks:
        tasks.run("a", 2, Note(notes))
        with pytest.raises(UserError, match="file 1: cannot be read"):
            tasks.run("b", 2, Note(notes, {1: "user error"}))
    assert ran(notes)["0"] == ["1 of 2", "1 of 2"]


def test_more_memory_than_a_machine_of_ray_has_is_an_error_and_not_a_wait_for_ever(tmp_path: Path, notes: Path) -> None:
    with (
        Tasks(engine("ray", memory_gb=10**6), tmp_path / "work") as tasks,
        pytest.raises(
            UserError, match=r"prepare\.engine\.memory_gb = 1000000: no machine of the Ray cluster .*lower it"
        ),
    ):
        tasks.run("a", 2, Note(notes))
    assert ran(notes) == {}


SBATCH = """#!/bin/sh
exec {python} - "$@" <<'END'
# Stands in for Slurm: runs the array's tasks of the script one after the other, in the background, as its jobs would.
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
last = int(re.search(r"--array=0-(\\d+)", script).group(1))
body = script.replace("srun", "env").replace(" -l -n 1 ", " ")
path = os.path.join(os.environ["FAKE_SLURM"], f"{{os.getpid()}}.job")
open(path, "w").write(body)
run = f"SLURM_ARRAY_TASK_ID=$i SLURM_NODELIST=localhost RUN_OFFSET=0 bash {{path}}"
loop = f"for i in $(seq 0 {{last}}); do {{run}}; done; rm {{path}}"
subprocess.Popen(["bash", "-c", loop], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
END
"""
SQUEUE = """#!/bin/sh
ls "$FAKE_SLURM" | grep -q "[.]job$" && echo "7 running"
exit 0
"""


@pytest.mark.parametrize("place", [pytest.param("work", marks=pytest.mark.slow), 'wörk $HOME 100%25 it\'s "it" #1'])
def test_slurm_jobs_are_waited_for_and_their_errors_told(
    tmp_path: Path, notes: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for sbatch, squeue and scontrol: the job script, the array and the wait are real."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (
        ("sbatch", SBATCH.format(python=shlex.quote(sys.executable))),
        ("squeue", SQUEUE),
        ("scontrol", "#!/bin/sh\necho localhost\n"),
    ):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("gpt.tasks.slurm._POLL_SECONDS", 0.2)
    monkeypatch.setattr("gpt.tasks.slurm._SLURM_GRACE_SECONDS", 1.0)
    with Tasks(engine("slurm", memory_gb=3), tmp_path / place) as tasks:
        tasks.run("a", 2, Note(notes))
        tasks.run("a", 2, Note(notes))
        assert ran(notes) == {"0": ["1 of 2"], "1": ["1 of 2"]}
        (script,) = (tmp_path / place / "a").rglob("launch_script.slurm")
        assert "--mem-per-cpu=3G" in script.read_text()
        with pytest.raises(UserError, match="file 0: cannot be read"):
            tasks.run("b", 1, Note(notes, {0: "user error"}))
        with pytest.raises(UserError, match="1 of 3 tasks ended before they were done: jobs that need more memory or"):
            tasks.run("c", 3, Note(notes, {1: "killed"}))
        with pytest.raises(UserError, match=r"out of memory, of which .*: raise prepare\.shards"):
            tasks.run("d", 2, Note(notes, {1: "memory"}))
    for job in ("a", "b"):
        # As sbatch reads a line of options (its get_argument), which is close to how a POSIX shell does.
        script = (tmp_path / place / job / "launch_script.slurm").read_text(encoding="utf-8")
        lines = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH")]
        folder = os.path.relpath(tmp_path / place / job / "slurm_logs").replace("%", "%%")
        assert {f"--{key}={folder}/%A_%a.out" for key in ("output", "error")} <= set(lines)
