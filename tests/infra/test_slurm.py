"""The scripts of infra/slurm on a real Slurm, which the tests start: small projects, real jobs, real preemption."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt import paths
from gpt.training.checkpoints import checkpoint as checkpoints
from tests import ROOT
from tests.chaos.conftest import checkpoint_folder
from tests.chaos.test_machines import Machine, machines
from tests.e2e.conftest import Project, prefect_home
from tests.e2e.conftest import make_project as make_whole_project
from tests.infra.cluster import Cluster, Node, log_of, running_cluster
from tests.training.conftest import make_project as make_prepared_project

__all__ = ["machines", "make_prepared_project", "make_whole_project", "prefect_home"]

FOLDER = "infra/slurm"
SCRIPTS = sorted(path.name for path in (ROOT / FOLDER).glob("*.s*"))
WEIGHTS = paths.BASE_MODEL / "model.safetensors"
TRAIN = {"max_steps": 1500, "checkpoint_interval": 20, "eval_interval": 1500, "sample_interval": 1500}
"Long enough for what a test does to a job that has saved once."
WHOLE: list[bytes] = []
"Weights of a run by hand that was not stopped, the same for all."


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("slurm"), [Node("node", "127.0.0.1")]) as cluster:
        yield cluster


@pytest.fixture
def make_project(make_prepared_project: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that makes a small project with prepared data and the scripts in it, and goes there."""

    def make(name: str = "project", **change: dict[str, object]) -> Path:
        folder = make_prepared_project(name, **change)
        shutil.copytree(ROOT / FOLDER, folder / FOLDER)
        return folder

    return make


@pytest.fixture
def enter_whole_project(
    make_whole_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Project]:
    """Return a function that makes a small project in which nothing has run, goes there, and submits with its environment."""

    def enter(**change: dict[str, object]) -> Project:
        project = make_whole_project(train=TRAIN, **change)
        shutil.copytree(ROOT / FOLDER, project.folder / FOLDER, dirs_exist_ok=True)
        monkeypatch.chdir(project.folder)
        for name, value in project.environment.items():
            monkeypatch.setenv(name, value)
        return project

    return enter


def train_by_hand() -> bytes:
    """Return the weights that `gpt pretrain` makes in the current folder."""
    command, environment = [sys.executable, "-m", "gpt", "pretrain"], os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return WEIGHTS.read_bytes()


@pytest.fixture
def expected(make_project: Callable[..., Path]) -> bytes:
    """The weights of training by hand that is left alone."""
    if not WHOLE:
        make_project("by_hand", train=TRAIN)
        WHOLE.append(train_by_hand())
    return WHOLE[0]


def has_saved(step: int) -> bool:
    """Whether the training in the current folder has saved that step or a later one."""
    found = checkpoint_folder(Path.cwd())
    return found is not None and any(checkpoints.step_of(path) >= step for path in checkpoints.steps(found))


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_the_script(name: str) -> None:
    assert subprocess.run(["bash", "-n", ROOT / FOLDER / name], capture_output=True, check=False).stderr == b""


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if not (shellcheck := shutil.which("shellcheck", path=places)):
        pytest.skip("shellcheck is not installed")
    command = [shellcheck, "--external-sources", *(f"{FOLDER}/{name}" for name in SCRIPTS)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(("asked", "given", "exit_code"), [(1, 1, 0), (2, 2, 0), (2, 1, 2), (1, 2, 2)])
def test_a_job_with_other_nodes_than_training_asks_for_is_refused(
    make_project: Callable[..., Path], asked: int, given: int, exit_code: int
) -> None:
    make_project(launch={"num_machines": asked, "micro_batch_size": 4})
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SLURM_JOB_NUM_NODES": str(given)}
    command = [sys.executable, "-m", "infra.slurm.nodes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    told = f"error: params.yaml: launch.num_machines = {asked}, but the job has {given} node(s)"
    assert (done.returncode, done.stderr.startswith(told)) == (exit_code, bool(exit_code)), done.stderr


def submit_and_wait_for_a_save(cluster: Cluster, partition: str, *options: str) -> str:
    """Return the number of a job that trains the project in the current folder, has saved and has more to do."""
    job = cluster.submit("train.sbatch", f"--partition={partition}", *options)
    cluster.wait_for(job, lambda: has_saved(20))
    return job


def assert_came_again_and_ended_as_if_left_alone(cluster: Cluster, job: str, expected: bytes) -> None:
    ended, log = cluster.wait_for_end(job), log_of(job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "1"), log
    stopped = re.search(r"^stopped by SIGTERM after step (\d+);", log, re.MULTILINE)
    assert stopped is not None, log
    assert f"resuming after step {stopped[1]} of {TRAIN['max_steps']}" in log, "what was done until the stop was saved"
    assert WEIGHTS.read_bytes() == expected


@pytest.mark.slow
def test_a_job_trains_to_the_end_with_the_weights_of_training_by_hand(
    cluster: Cluster, make_project: Callable[..., Path], expected: bytes
) -> None:
    make_project(train=TRAIN)
    ended = cluster.wait_for_end(job := cluster.submit("train.sbatch"))
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "0"), log_of(job)
    assert WEIGHTS.read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["patient", "abrupt"])
def test_a_preempted_job_saves_comes_again_and_ends_with_the_same_weights(
    cluster: Cluster, make_project: Callable[..., Path], expected: bytes, partition: str
) -> None:
    """In a partition that lets it end by itself (GraceTime), and in one where Slurm ends it."""
    make_project(train=TRAIN)
    job = submit_and_wait_for_a_save(cluster, partition)
    cluster.run("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=true")
    assert_came_again_and_ended_as_if_left_alone(cluster, job, expected)


@pytest.mark.slow
def test_a_job_that_is_told_that_its_time_is_over_saves_comes_again_and_ends_with_the_same_weights(
    cluster: Cluster, make_project: Callable[..., Path], expected: bytes
) -> None:
    """It gets the signal that Slurm sends before a time limit."""
    make_project(train=TRAIN)
    job = submit_and_wait_for_a_save(cluster, "patient")
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    assert_came_again_and_ended_as_if_left_alone(cluster, job, expected)


@pytest.mark.slow
def test_a_job_is_told_before_its_time_is_over_and_queued_again(
    cluster: Cluster, make_project: Callable[..., Path]
) -> None:
    """Two minutes before, so one that has a minute is told as soon as Slurm looks, which it does twice a minute."""
    make_project(train=TRAIN | {"max_steps": 10**6})
    job = cluster.submit("train.sbatch", "--time=1")
    cluster.wait_for(job, lambda: cluster.show(job)["Restarts"] == "1")
    assert "stopped with what is done saved; the job is queued again" in log_of(job)
    cluster.run("scancel", job)


@pytest.mark.slow
def test_a_cancelled_job_saves_and_does_not_come_again(cluster: Cluster, make_project: Callable[..., Path]) -> None:
    make_project(train=TRAIN)
    job = submit_and_wait_for_a_save(cluster, "patient")
    cluster.run("scancel", job)
    ended = cluster.wait_for_end(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0"), log_of(job)
    stopped = re.search(r"^stopped by SIGTERM after step (\d+);", log_of(job), re.MULTILINE)
    assert stopped is not None, log_of(job)
    assert has_saved(int(stopped[1]))


@pytest.mark.slow
def test_what_the_user_must_change_ends_the_job_with_one_line(
    cluster: Cluster, make_project: Callable[..., Path]
) -> None:
    folder = make_project(train=TRAIN)
    shutil.rmtree(folder / paths.TOKENS)
    ended = cluster.wait_for_end(job := cluster.submit("train.sbatch"))
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0"), log_of(job)
    ours = [line for line in log_of(job).splitlines() if not line.startswith(("srun: ", "slurmstepd"))]
    assert len(ours) == 1
    assert ours[0].startswith("error: data/tokens"), ours


@pytest.mark.slow
def test_two_nodes_train_come_again_together_and_end_with_the_weights_of_two_processes_of_one(
    tmp_path_factory: pytest.TempPathFactory, machines: tuple[Machine, Machine], make_project: Callable[..., Path]
) -> None:
    make_project("by_hand", train=TRAIN, launch={"num_processes": 2, "micro_batch_size": 4})
    expected = train_by_hand()
    make_project("two_nodes", train=TRAIN, launch={"num_machines": 2, "micro_batch_size": 4})
    nodes = [Node(each.address, each.address, ("ip", "netns", "exec", each.name)) for each in machines]
    with running_cluster(tmp_path_factory.mktemp("slurm"), nodes) as cluster:
        job = submit_and_wait_for_a_save(cluster, "patient", "--nodes=2")
        cluster.run("scancel", "--batch", "--signal=USR1", job)
        assert_came_again_and_ended_as_if_left_alone(cluster, job, expected)


@pytest.mark.slow
def test_training_begins_after_the_data_and_dvc_takes_its_model(
    cluster: Cluster, enter_whole_project: Callable[..., Project]
) -> None:
    project = enter_whole_project()
    data = cluster.submit("data.sbatch")
    training = cluster.submit("train.sbatch", f"--dependency=afterok:{data}")
    states = [cluster.wait_for_end(job)["JobState"] for job in (data, training)]
    assert states == ["COMPLETED", "COMPLETED"], log_of(data) + log_of(training)
    made = project.weights()
    project.run("dvc", "commit", "--force", "pretrain")
    assert "Stage 'pretrain' didn't change, skipping" in project.run("dvc", "repro", "pretrain")
    assert project.weights() == made


@pytest.mark.slow
def test_a_flow_that_is_told_that_its_time_is_over_comes_again_and_registers_its_model(
    cluster: Cluster, enter_whole_project: Callable[..., Project]
) -> None:
    enter_whole_project(register={"gate": {"max_bits_per_byte": 8.0}})
    job = cluster.submit("flow.sbatch")
    cluster.wait_for(job, lambda: has_saved(20))
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    ended = cluster.wait_for_end(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log_of(job)
    assert "resuming after step" in log_of(job)
    assert "models:/shakespeare-gpt/1 registered" in log_of(job)
