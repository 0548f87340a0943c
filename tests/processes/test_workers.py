"""`gpt pretrain` in two real processes, and what becomes of one when another dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gpt import paths
from gpt.errors import UserError
from gpt.processes.launch import RENDEZVOUS
from gpt.processes.workers import _rendezvous
from gpt.training.checkpoints import checkpoint as checkpoints
from tests import ROOT
from tests.living import is_alive, variables_of
from tests.training.test_process_counts import start_with
from tests.training.test_trainer import WEIGHTS, start, wait_for_checkpoint

TWO: dict[str, object] = {"num_processes": 2, "micro_batch_size": 4}


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return the training processes, rank 0 first."""
    ranks = {child: variables_of(child).get("RANK") for child in psutil.Process(process.pid).children()}
    return sorted((child for child, rank in ranks.items() if rank is not None), key=lambda child: str(ranks[child]))


# However slow this machine is: as if steps were short, where processes ask each other about stops only when they log.
SHORT_STEPS = """
import math
from gpt.training import trainer
trainer._STOP_SECONDS = math.inf
"""


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(make_project: Callable[..., Path]) -> None:
    change = {"max_steps": 3000, "checkpoint_interval": 3000, "eval_interval": 3000, "log_interval": 7}
    process = start_with(make_project(train=change, launch=TWO), SHORT_STEPS)
    assert process.stderr is not None
    line = ""
    while "step 7/3000" not in line:
        line = process.stderr.readline()
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    (saved,) = Path("checkpoints").glob("*/step_*")
    stopped_at = int(saved.name.removeprefix("step_"))
    assert stopped_at % 7 == 0
    assert errors.count(f"stopped by SIGINT after step {stopped_at};") == 1, errors
    assert "Traceback" not in errors
    assert checkpoints.find_damage(saved) is None


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_and_starts_none_again(make_project: Callable[..., Path]) -> None:
    make_project(train={"max_steps": 5000, "eval_interval": 5000}, launch=TWO)
    process = start()
    wait_for_checkpoint(process, 10)
    workers_of(process)[1].terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors.count("stopped by SIGTERM after step") == 1, errors
    assert "resuming" not in output


# What the two processes of a launcher do in the tests below, which need no training. Each leaves a file with its number.
WORKER = """
import os, sys, time
from pathlib import Path
from gpt.commands import worker
from gpt.errors import UserError

rank, start = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])

def command(arguments):
    Path(f"{os.getpid()}.pid").touch()
    while len(list(Path.cwd().glob("*.pid"))) < 2 * (start + 1):
        time.sleep(0.01)  # an error in one would end the other before it has begun
    BODY
    return 0

worker.run = command
sys.exit(worker.main([]))
"""
LAUNCHER = """
import sys
from pathlib import Path
from gpt.errors import UserError
from gpt.params.project import load_params
from gpt.processes.workers import run_workers

settings = load_params(Path(sys.argv[1])).launch.model_copy(update={"num_processes": 2, "max_restarts": 1})
try:
    sys.exit(run_workers(settings, ["worker.py"], "lower something"))
except UserError as error:
    sys.exit(f"error: {error}")
"""


def launch_workers(folder: Path, body: str) -> "subprocess.Popen[str]":
    (folder / "worker.py").write_text(WORKER.replace("BODY", body))
    command = [sys.executable, "-c", LAUNCHER, str(ROOT / "params.yaml")]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return subprocess.Popen(command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True)


def alive(folder: Path) -> list[int]:
    """Return the processes that workers left files of and that still run."""
    return [int(path.stem) for path in folder.glob("*.pid") if is_alive(int(path.stem))]


def test_an_error_of_the_user_in_one_worker_ends_all_within_seconds(tmp_path: Path) -> None:
    body = "time.sleep(600) if rank == 0 else None; raise UserError('no such data; choose others')"
    process = launch_workers(tmp_path, body)
    _, errors = process.communicate(timeout=60)  # of which torch's imports, twice, take most
    assert process.returncode == 1
    assert errors == "error: no such data; choose others\n"
    assert len(list(tmp_path.glob("*.pid"))) == 2, "nothing is started again"
    assert not alive(tmp_path)
    assert not list(tmp_path.glob("gpt_workers_*")), "its files are temporary"


@pytest.mark.slow
def test_a_bug_in_one_worker_is_told_once_and_all_start_again(tmp_path: Path) -> None:
    process = launch_workers(
        tmp_path, "assert start == 1 or rank == 0, 'a bug of mysql://u:s3cr3t@h'; time.sleep(600 * (start == 0))"
    )
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert errors.count("Traceback") == errors.count("AssertionError: a bug of mysql://u:***@h") == 1, errors
    assert errors.count("s3cr3t") == 0, "of the traceback's line of code neither"
    assert "process 1 ended with exit code 1; all start again from the last checkpoint (restart 1 of 1)" in errors
    assert len(list(tmp_path.glob("*.pid"))) == 4


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "must be HOST:PORT"),
        (":29500", "must be HOST:PORT"),
        ("127.0.0.1:port", "must be HOST:PORT"),
        ("127.0.0.1:65536", "must be HOST:PORT"),
        ("no.such.host.invalid:29500", "the host cannot be found"),
        ("127.0.0.1:29500", "no other machine can reach 127.0.0.1"),
        ("localhost:29500", "no other machine can reach"),
    ],
)
def test_a_rendezvous_that_is_no_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.setenv(RENDEZVOUS, address)
    with pytest.raises(UserError, match=f"{RENDEZVOUS} = '{address}': {message}"):
        _rendezvous()


@pytest.mark.slow
def test_when_a_process_dies_all_go_on_from_the_last_checkpoint(make_project: Callable[..., Path]) -> None:
    change = {"max_steps": 200, "checkpoint_interval": 10, "eval_interval": 200}
    make_project("whole", train=change, launch=TWO)
    output, errors = start().communicate(timeout=180)
    expected = WEIGHTS.read_bytes()
    make_project("killed", train=change, launch=TWO)
    process = start()
    for rank, step in ((1, 30), (0, 90)):
        wait_for_checkpoint(process, step)
        workers = workers_of(process)
        workers[rank].kill()
        _, left = psutil.wait_procs(workers, timeout=40)  # rank 0 still tells the tracker, 30 s at most
        assert not left, "the others stop instead of waiting for it"
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert output.count("resuming after step") == 2, output + errors
    for rank, restart in ((1, 1), (0, 2)):
        assert (
            f"process {rank} ended with exit code -9 (killed, as the kernel does when memory is short); all start again from"
            f" the last checkpoint (restart {restart}" in errors
        )
    assert "Traceback" not in errors, "the others fail because it did"
    assert WEIGHTS.read_bytes() == expected


@pytest.mark.slow
def test_what_only_the_user_can_change_is_not_tried_again(make_project: Callable[..., Path]) -> None:
    make_project(launch=TWO)
    shard = next(paths.TOKENS.glob("train_*.bin"))
    shard.write_bytes(bytes(shard.stat().st_size))
    process = start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith("error: data/tokens/") and errors.count("\n") == 1, "one message, and nothing else"


@pytest.mark.slow
def test_what_all_processes_refuse_ends_with_exit_code_2(make_project: Callable[..., Path]) -> None:
    diverging: dict[str, object] = {"learning_rate": 1.0e30, "grad_clip": 0.0, "warmup_fraction": 0.0}
    make_project(train=diverging | {"max_rollbacks": 1}, launch=TWO)
    process = start()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2, output + errors
    assert errors.count("error: ") == errors.count("error: training diverged") == 1, errors
    assert errors.count("going back to step 0") == 1, "rank 0 speaks, and is not started again"


@pytest.mark.slow
def test_a_process_that_dies_again_and_again_ends_the_run(make_project: Callable[..., Path]) -> None:
    make_project(train={"max_steps": 5000, "eval_interval": 5000}, launch=TWO | {"max_restarts": 0})
    process = start()
    wait_for_checkpoint(process, 10)
    workers_of(process)[1].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert (
        "process 1 ended with exit code -9 (killed, as the kernel does when memory is short), after 0 restarts; "
        in errors
    )
    assert "or if memory was short: params.yaml: lower launch.micro_batch_size (4)" in errors


@pytest.mark.slow
def test_workers_stop_and_save_when_their_launcher_is_killed(make_project: Callable[..., Path]) -> None:
    make_project(train={"max_steps": 5000, "eval_interval": 5000}, launch=TWO)
    process = start()
    wait_for_checkpoint(process, 10)
    workers = workers_of(process)
    process.kill()
    process.communicate()
    gone, left = psutil.wait_procs(workers, timeout=30)
    assert len(gone) == 2 and not left
    (folder,) = Path("checkpoints").iterdir()
    assert checkpoints.holder(folder) is None
    newest = checkpoints.steps(folder)[-1]
    assert checkpoints.find_damage(newest) is None
    assert checkpoints.step_of(newest) % 4 == 0, "saved where they agree on a signal"
