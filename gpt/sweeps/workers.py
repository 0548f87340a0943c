"""Who runs a sweep: any number of processes, on this machine, that agree through files and the kernel's locks. There is no queue.

Each takes the first trial that is neither done nor held, so that each trial is run once, whoever is killed and whenever; when all
are taken it waits, and takes over what a killed one has left. `python -m gpt.sweeps.workers` is one that `gpt sweep run
--workers` starts.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import psutil

from gpt import git
from gpt.entry import begin, end_with, leave
from gpt.errors import UserError
from gpt.files import parse_yaml
from gpt.limits import usable_cores
from gpt.params.project import PARAMS_FILE
from gpt.processes.owner import stop_with
from gpt.processes.signals import Stop
from gpt.sweeps import runs
from gpt.sweeps.page import write_page
from gpt.sweeps.records import ENDED, FAILED, WAITING, Records, Trial
from gpt.sweeps.settings import Sweep, load_sweep
from gpt.sweeps.suggest import check_possible, suggest
from gpt.sweeps.trial import Work
from gpt.tracking.store import tracking_uri

_POLL_SECONDS = 1.0
_SETTLED = ("dvc.lock", "metrics", "plots", "sweeps")
"Changes that no trial would miss: of results, and of sweeps."


def run_sweep(name: str, workers: int, *, retry: bool) -> Path:
    """Run the trials of a sweep that have not ended, and return the page that shows all; `retry`: those that have failed, too.

    Raises `UserError` for a file that is not allowed or changes that are not committed, `Interrupted` after a signal.
    """
    project, records = Path.cwd(), Records(name)
    sweep = load_sweep(name)
    check_possible(sweep, parse_yaml(PARAMS_FILE.read_text(encoding="utf-8")))
    tracking_uri()  # that it is an address
    commit = "" if records.has_begun() else check_committed(project)
    with records.alone():
        about = records.begin(sweep.model_dump(mode="json"), commit)
        if retry:
            _begin_again(records)
        parent = runs.begin(records, about, sweep)
    stop = Stop("and has saved the trials that ran; the same command goes on")
    with stop.handled():
        if workers == 1:
            work(records, sweep, parent)
        else:
            _start_workers(name, workers, parent)
    page = write_page(records, sweep)
    if parent:
        runs.end(records, about, sweep, parent, page)
    return page


def work(records: Records, sweep: Sweep, parent: str) -> None:
    """Take trials and run them until none is left."""
    seen: set[int] = set()
    while taken := _take(records, sweep, seen):
        trial, lock = taken
        with lock:
            seen.add(trial.number)
            name = f"trial {trial.number} of {records.name}"
            say = _sayer(name)
            if trial.state == WAITING:
                say(" ".join(f"{key}={value}" for key, value in trial.params.items()))
            Work(Path.cwd(), records, sweep, trial, lock, say).do(parent)


def check_committed(project: Path) -> str:
    """Return the commit that trials begin from; raise `UserError` if the folder holds changes that they would not have."""
    commit = git.find_commit(project)
    if commit is None:
        raise UserError(f'{project}: has no commit that trials could begin from; `git add -A && git commit -m "begin"`')
    others = [f":(exclude){path}" for path in _SETTLED]
    if changes := git.list_files(project, "diff", "--name-only", "-z", "--relative", "HEAD", "--", ".", *others):
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise UserError(
            f"{', '.join(changes[:3])}{more}: changed and not committed, and trials begin from the last commit;"
            " commit, or `git stash`"
        )
    return commit


def _take(records: Records, sweep: Sweep, seen: set[int]) -> tuple[Trial, TextIO] | None:
    """Return a trial that is to be run or recorded, and its lock; None if nothing is left. Waits for those that others hold."""
    while True:
        with records.alone():
            trials = records.trials()
            for trial in trials:
                if trial.number not in seen and not _is_done(trial) and (lock := records.try_to_hold(trial.number)):
                    return records.trial(trial.number), lock  # as it is now: who held it may have ended it
            if trial := _suggest_next(records, sweep, trials):
                lock = records.try_to_hold(trial.number)
                assert lock is not None, "nobody knows of it yet"
                return trial, lock
        if all(trial.state in ENDED for trial in trials):
            return None
        time.sleep(_POLL_SECONDS)


def _is_done(trial: Trial) -> bool:
    return trial.state in ENDED and bool(trial.commit and trial.run)


def _suggest_next(records: Records, sweep: Sweep, trials: Sequence[Trial]) -> Trial | None:
    """Write down the next trial, and return it; None if there are as many as there should be, or no further values."""
    number = len(trials) + 1
    if sweep.trials and number > sweep.trials:
        return None
    values = suggest(sweep, records.settings(), number, trials)
    if values is None:
        return None
    trial = Trial(number, values)
    records.write(trial)
    return trial


def _begin_again(records: Records) -> None:
    """Let trials that have failed wait for another start; what DVC and MLflow know of them is overwritten by its end."""
    for trial in records.trials():
        if trial.state == FAILED and not records.is_held(trial.number):
            trial.go_to(WAITING)
            trial.reason, trial.commit, trial.run = "", "", ""
            records.write(trial)


def _start_workers(name: str, workers: int, parent: str) -> None:
    """Run workers in processes of their own until the last one has ended; raise `UserError` if one has failed."""
    with _started([_command(name, parent)] * workers, workers) as processes:
        codes = [process.wait() for process in processes]
    if any(codes):
        raise UserError(
            f"{sum(map(bool, codes))} of {workers} workers ended early; see above, and run it again to go on"
        )


@contextmanager
def _started(commands: Sequence[Sequence[str]], workers: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start processes, and end them with the block: stopped, they save; however we end, they do as well (`stop_with`)."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for slot, command in enumerate(commands):
            processes.append(subprocess.Popen(command, env=environment_of(slot, workers), stdin=subprocess.DEVNULL))
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()


def environment_of(slot: int, workers: int) -> dict[str, str]:
    """Return the variables of one of several workers: its share of the cores, and of the GPUs if there is one for each.

    Threads that wait for a core that another worker's hold are slower than fewer threads. OMP_NUM_THREADS, if it is set, stays.
    """
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // workers)))
    devices = _devices()
    if len(devices) >= workers:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[slot::workers])
    return environment


def _devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device for device in named.split(",") if device.strip()]
    return [str(number) for number in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def _command(name: str, parent: str) -> list[str]:
    return [sys.executable, "-m", "gpt.sweeps.workers", name, str(os.getpid()), parent]


def _sayer(name: str) -> Callable[[str], None]:
    return lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)  # what came of it goes to stdout


def main(arguments: Sequence[str]) -> int:
    """Work on a sweep as one of several, until it is done or who started us has ended."""
    name, owner, parent = arguments
    begin()

    def run() -> int:
        with Stop("and has saved what ran").handled():
            try:
                stop_with(psutil.Process(int(owner)))
            except psutil.NoSuchProcess:
                return 1
            records = Records(name)
            work(records, load_sweep(name), parent)
        return 0

    return end_with(run)


if __name__ == "__main__":
    sys.exit(leave(main(sys.argv[1:])))
