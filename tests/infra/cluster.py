"""A real Slurm in a temporary folder: munged, slurmctld and a slurmd for each node, on ports of their own."""

import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flows.server import free_port
from tests import ROOT
from tests.chaos.conftest import Family

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
# Where a distribution puts daemons, which a user's PATH may not name.
_PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_START_SECONDS = 60
PATIENCE_SECONDS = 300
"After it a job counts as hanging, beside other work too."

# One job a node at a time, so that an urgent one preempts another. What is requeued waits while a credential is valid: 5 seconds.
_SETTINGS = """
ClusterName=test
SlurmUser={user}
SlurmdUser={user}
SlurmctldHost={controller}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=patient Nodes=ALL Default=YES PriorityTier=1 GraceTime=120
PartitionName=abrupt Nodes=ALL PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster; `inside` is what a command is an argument of that shall run there."""

    name: str
    address: str
    inside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    folder: Path
    nodes: Sequence[Node]
    family: Family = field(default_factory=Family)
    daemons: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a shell in which jobs are submitted."""
        variables = {"VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(ROOT), "PATH": _PLACES}
        variables["SLURM_CONF"] = str(self.folder / "slurm.conf")
        return {**os.environ, **self.family.environment, **variables}

    def start(self) -> None:
        """Start the daemons, each a session of its own; return when all nodes are free."""
        (self.folder / "state").mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o600)
        first, *_ = self.nodes
        nodes = [f"NodeName={n.name} NodeHostname={n.name} NodeAddr={n.address} CPUs=1" for n in self.nodes]
        settings = _SETTINGS.format(
            user=pwd.getpwuid(os.geteuid()).pw_name,
            folder=self.folder,
            controller=f"{os.uname().nodename}({first.address})",
            controller_port=free_port(),
            node_port=free_port(),
            nodes="\n".join(nodes),
        )
        (self.folder / "slurm.conf").write_text(settings, encoding="utf-8")
        # Jobs are followed without control groups, which a container may not have; a slurmd looks for them even so.
        version = tuple(int(number) for number in re.findall(r"\d+", self.run("sbatch", "--version"))[:2])
        plugin = "disabled" if version >= (24, 5) else "cgroup/v1"
        (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n", encoding="utf-8")
        files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        munge = [f"--{option}={self.folder}/munge.{name}" for option, name in files.items()]
        self._start("munged", "--foreground", "--force", *munge)
        self._wait(lambda: (self.folder / "munge.socket").exists(), _START_SECONDS)
        self._start("slurmctld", "-D")
        for node in self.nodes:
            self._start("slurmd", "-D", "-N", node.name, inside=node.inside)
        self._wait(lambda: self._states() == {"idle"}, _START_SECONDS)

    def stop(self) -> None:
        """End all jobs, then the daemons; whatever is left of them is killed, and an error."""
        try:
            self.run("scancel", "--user", str(os.geteuid()))
            self._wait(lambda: not self.run("squeue", "--noheader"), _START_SECONDS)
            for daemon in reversed(self.daemons):
                daemon.terminate()
                daemon.wait(_START_SECONDS)
            self.family.wait_until_gone(_START_SECONDS)
        finally:
            for process in self.family.alive():
                process.kill()

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands on the first node, in the current folder, and return what it printed."""
        command = (*self.nodes[0].inside, *command)
        return subprocess.run(
            command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True, timeout=_START_SECONDS
        ).stdout

    def submit(self, script: str, *options: str) -> str:
        """Submit a script of infra/slurm in the current folder and return the job's number."""
        return self.run("sbatch", "--parsable", *options, f"infra/slurm/{script}").strip()

    def show(self, job: str) -> dict[str, str]:
        """Return what Slurm knows of a job: JobState, ExitCode, Restarts, …"""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_end(self, job: str) -> dict[str, str]:
        """Return what is known of a job when nothing of it runs or waits any more."""
        self._wait(lambda: not self.run("squeue", "--noheader", f"--jobs={job}"), PATIENCE_SECONDS)
        return self.show(job)

    def wait_for(self, job: str, condition: Callable[[], object]) -> None:
        """Wait until something has happened that a job shall do before it ends."""

        def has_happened() -> bool:
            happened, state = bool(condition()), self.show(job)["JobState"]
            assert happened or state in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING"), (state, log_of(job))
            return happened

        self._wait(has_happened, PATIENCE_SECONDS)

    def _states(self) -> set[str]:
        with_names = subprocess.run(
            [*self.nodes[0].inside, "sinfo", "--noheader", "--format=%t"],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return set(with_names.stdout.split())

    def _start(self, *command: str, inside: Sequence[str] = ()) -> None:
        inside = inside or self.nodes[0].inside
        with (self.folder / f"{command[0]}.out").open("a") as output:
            daemon = subprocess.Popen(
                [*inside, *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.daemons.append(daemon)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self._said()
            time.sleep(0.1)

    def _said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.out"))


def log_of(job: str) -> str:
    """Return what a job that was submitted in the current folder has written, in all its runs."""
    path = Path(f"slurm-{job}.out")
    return path.read_text(encoding="utf-8") if path.exists() else ""


@contextmanager
def running_cluster(folder: Path, nodes: Sequence[Node]) -> Iterator[Cluster]:
    """Give a cluster of nodes; skip the test where Slurm is not installed."""
    if missing := [name for name in _PROGRAMS if not shutil.which(name, path=_PLACES)]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)")
    cluster = Cluster(folder, nodes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
