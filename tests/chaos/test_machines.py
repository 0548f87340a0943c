"""Two machines, as far as the network can tell: namespaces of their own with a cable between, which is pulled and put back."""

import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gpt import paths
from gpt.processes.launch import RENDEZVOUS
from gpt.training.checkpoints import checkpoint as checkpoints
from tests.chaos.conftest import Family, checkpoint_folder, start_training

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

WEIGHTS = paths.BASE_MODEL / "model.safetensors"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Machine:
    """A network namespace with one end of the cable in it."""

    name: str
    address: str

    def plug(self, state: str) -> None:
        ip("-n", self.name, "link", "set", "cable", state)

    def start(self, family: Family, rendezvous: str) -> "subprocess.Popen[str]":
        return start_training(family, "ip", "netns", "exec", self.name, **{RENDEZVOUS: rendezvous})


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    mark = uuid.uuid4().hex[:6]
    first, second = (Machine(f"gpt-{mark}-{number}", f"10.77.0.{number}") for number in (1, 2))
    try:
        for machine in (first, second):
            ip("netns", "add", machine.name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
    try:
        ip("link", "add", "cable", "netns", first.name, "type", "veth", "peer", "name", "cable", "netns", second.name)
        for machine in (first, second):
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "cable")
            ip("-n", machine.name, "link", "set", "lo", "up")
            machine.plug("up")
        yield first, second
    finally:
        for machine in (first, second):
            ip("netns", "del", machine.name)


def wait_for_step(folder: Path, step: int, processes: "list[subprocess.Popen[str]]") -> None:
    deadline = time.monotonic() + 180
    while True:
        found = checkpoint_folder(folder)
        if found and any(checkpoints.step_of(path) >= step for path in checkpoints.steps(found)):
            return
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_machine_that_is_cut_off_or_lost_and_comes_back_trains_on(
    make_prepared_project: Callable[..., Path],
    machines: tuple[Machine, Machine],
    family: Family,
    option: Callable[[str], int],
) -> None:
    train = {"max_steps": 200, "checkpoint_interval": 20, "eval_interval": 100, "sample_interval": 200}
    two: dict[str, object] = {"micro_batch_size": 4, "timeout_seconds": 5}
    make_prepared_project("whole", train=train, launch=two | {"num_processes": 2})
    start_training(family).communicate(timeout=180)
    expected = WEIGHTS.read_bytes()
    folder = make_prepared_project("cut", train=train, launch=two | {"num_machines": 2})
    rendezvous = f"{machines[0].address}:29500"
    here, there = (machine.start(family, rendezvous) for machine in machines)
    wait_for_step(folder, 40, [here, there])
    machines[1].plug("down")
    time.sleep(max(8, option("outage")))  # longer than they wait for each other
    machines[1].plug("up")
    wait_for_step(folder, 100, [here, there])
    for process in psutil.Process(there.pid).children(recursive=True):
        process.kill()
    there.kill()
    there.communicate()
    there = machines[1].start(family, rendezvous)
    outputs = [process.communicate(timeout=300) for process in (here, there)]
    assert [here.returncode, there.returncode] == [0, 0], outputs
    assert outputs[0][0].count("resuming after step") == 2, outputs
    assert WEIGHTS.read_bytes() == expected
    assert not family.alive()


def test_a_signal_on_one_machine_stops_all_after_the_same_step(
    make_prepared_project: Callable[..., Path], machines: tuple[Machine, Machine], family: Family
) -> None:
    train = {"max_steps": 5000, "checkpoint_interval": 20, "eval_interval": 5000, "sample_interval": 5000}
    folder = make_prepared_project(train=train, launch={"micro_batch_size": 4, "num_machines": 2})
    processes = [machine.start(family, f"{machines[0].address}:29500") for machine in machines]
    wait_for_step(folder, 20, processes)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, outputs
    assert outputs[0][1].count("stopped by SIGTERM after step") == 1
    assert "Traceback" not in outputs[0][1] + outputs[1][1]
    newest = checkpoints.steps(checkpoint_folder(folder) or folder)[-1]
    assert f"after step {checkpoints.step_of(newest)};" in outputs[0][1]
    assert not family.alive()


def assert_refused(processes: "list[subprocess.Popen[str]]", message: str) -> None:
    outputs = [process.communicate(timeout=120) for process in processes]
    assert processes[0].returncode == 2, outputs
    assert processes[1].returncode in (1, 2), "1 if the first machine, where they met, had ended before it could say so"
    assert outputs[0][1].count("error: ") == 1
    assert message in outputs[0][1]


def test_machines_with_other_settings_are_refused(
    make_prepared_project: Callable[..., Path],
    machines: tuple[Machine, Machine],
    family: Family,
) -> None:
    processes = []
    for precision, machine in zip(("bf16", "fp32"), machines, strict=True):
        launch: dict[str, object] = {"micro_batch_size": 4, "num_machines": 2}
        make_prepared_project(f"machine_{precision}", launch=launch, train={"precision": precision})
        processes.append(machine.start(family, f"{machines[0].address}:29500"))
    assert_refused(processes, "not the same on all machines; make them the same")
    assert not family.alive()


def test_machines_that_do_not_share_their_checkpoints_are_refused(
    make_prepared_project: Callable[..., Path],
    machines: tuple[Machine, Machine],
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = []
    for number in range(2):
        launch: dict[str, object] = {"micro_batch_size": 4, "num_machines": 2}
        folders.append(make_prepared_project(f"machine_{number}", train={"max_steps": 5000}, launch=launch))

    def start_all() -> "list[subprocess.Popen[str]]":
        processes = []
        for machine, folder in zip(machines, folders, strict=True):
            monkeypatch.chdir(folder)
            processes.append(machine.start(family, f"{machines[0].address}:29500"))
        return processes

    processes = start_all()
    deadline = time.monotonic() + 120
    while not any(list(folder.glob("checkpoints/*/step_*")) for folder in folders) and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[0].send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=60)
    assert_refused(start_all(), "processes find different checkpoints; let all machines share this folder")
    assert not family.alive()
