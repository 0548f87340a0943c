"""A trainer stops with the process that it trains for, however that one ends: real processes, a real DVC."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gpt.processes.owner import OWNER, stop_with
from gpt.processes.signals import Stop
from tests import ROOT

PYTHON = shlex.quote(sys.executable)
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(100)"]
TRAINER = """
import os, time
from pathlib import Path
from gpt.processes.owner import watch_owner
from gpt.processes.signals import Stop

stop = Stop()
with stop.handled():
    stop.defer()
    while os.environ.get("WAIT_FOR_ORPHAN") == str(os.getppid()):
        time.sleep(0.01)
    watch_owner()
    Path("number.tmp").write_text(str(os.getpid()))
    Path("number.tmp").rename("number")
    while not stop.signum:
        time.sleep(0.01)
Path("saved").touch()
"""


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trainer.py").write_text(TRAINER)
    return tmp_path


def environment(**change: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return kept | {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", "DVC_DAEMON": "1"} | change


def test_it_is_signalled_when_its_owner_is_killed_and_not_before() -> None:
    owner = subprocess.Popen(SLEEPER)
    stop = Stop()
    with stop.handled():
        stop.defer()
        stop_with(psutil.Process(owner.pid))
        assert not stop.signum
        owner.kill()  # a zombie as long as nobody waits for it
        wait_until(lambda: stop.signum, 5)
    owner.wait()
    assert stop.signum == signal.SIGTERM


def test_it_is_signalled_at_once_when_its_owner_has_ended() -> None:
    owner = subprocess.Popen(SLEEPER)
    process = psutil.Process(owner.pid)
    owner.kill()
    owner.wait()
    stop = Stop()
    with stop.handled():
        stop.defer()
        stop_with(process)
        wait_until(lambda: stop.signum, 5)


def test_a_worker_whose_launcher_has_ended_before_it_looked_ends(folder: Path) -> None:
    gone = subprocess.Popen(SLEEPER)
    gone.kill()
    gone.wait()
    subprocess.run(
        [sys.executable, "trainer.py"], cwd=folder, env=environment(**{OWNER: str(gone.pid)}), check=True, timeout=30
    )
    assert (folder / "saved").exists()


def test_without_an_owner_nothing_is_watched(folder: Path) -> None:
    shell = subprocess.Popen(["sh", "-c", f"{PYTHON} trainer.py; true"], cwd=folder, env=environment())
    wait_until((folder / "number").exists)
    trainer = psutil.Process(int((folder / "number").read_text()))
    shell.kill()
    shell.wait()
    assert trainer.is_running() and not (folder / "saved").exists()
    trainer.terminate()
    wait_until((folder / "saved").exists)


@pytest.mark.parametrize(
    ("shell", "rest"),
    [("bash", ""), ("dash", ""), ("sh", "; true")],
    ids=["bash", "dash", "a shell that stays between"],
)
def test_a_killed_dvc_repro_leaves_no_trainer(folder: Path, shell: str, rest: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"no {shell} here")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"train": {"cmd": f"{PYTHON} trainer.py{rest}"}}}))
    command = [sys.executable, "-m", "dvc", "repro", "-q"]
    dvc = subprocess.Popen(command, cwd=folder, env=environment(SHELL=path))
    wait_until((folder / "number").exists, 60)
    trainer = psutil.Process(int((folder / "number").read_text()))
    dvc.kill()
    dvc.wait()
    trainer.wait(10)
    assert (folder / "saved").exists()


def test_a_dvc_repro_that_was_killed_before_its_trainer_looked_leaves_none(folder: Path) -> None:
    """The shell plays DVC: it ends as soon as it has started the trainer, which the system's first process adopts."""
    orphan = subprocess.run(["sh", "-c", "sleep 100 >&- & echo $!"], stdout=subprocess.PIPE, check=True, text=True)
    adopter = psutil.Process(int(orphan.stdout)).parent()
    os.kill(int(orphan.stdout), signal.SIGKILL)
    if adopter and adopter.pid != 1 and adopter.name() != "systemd":
        pytest.skip(f"orphans are adopted by {adopter.name()} here, which answers for them")
    command = f"WAIT_FOR_ORPHAN=$$ {PYTHON} trainer.py & true"
    variables = environment(DVC_STAGE="pretrain")
    subprocess.run(["sh", "-c", command], cwd=folder, env=variables, check=True, start_new_session=True)
    wait_until((folder / "saved").exists)
