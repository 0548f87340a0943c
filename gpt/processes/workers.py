"""`gpt pretrain` and `gpt evaluate` in several processes: torch elastic's agent, run here, starts them, and again when one dies.

Promise: a user's error or a stop in any worker ends all of them within seconds, printed once, and none is started again.
Means: elastic's error files. A worker writes its exception there through `@record` (gpt/commands/worker.py), or by
`tell_owner` the stop that all agreed on; when a worker has ended, the agent reads them, and the same is raised here.
Any other end of a worker starts all of them again from the last checkpoint, `launch.max_restarts` times.
That workers stop when this process is killed is what owner.py does.
"""

import fcntl
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.launcher.api import LaunchConfig

from gpt.entry import end_at_once
from gpt.errors import Interrupted, UserError
from gpt.limits import usable_cores
from gpt.memory import KillWatch, describe_kill
from gpt.params.launch import Launch
from gpt.processes.launch import RENDEZVOUS
from gpt.processes.owner import OWNER
from gpt.secrets.hiding import redact

# From a signal to SIGKILL: to agree on it, and to save.
_SHUTDOWN_SECONDS = 30
# Machines wait so long for each other, at the start and for one that was cut off.
_MEETING_SECONDS = 600
_GO_ON = "run it again to go on from the last checkpoint"

logger = logging.getLogger(__name__)


class _Signalled(Interrupted):
    """A signal was sent to the launcher itself."""


@dataclass(frozen=True)
class _Record:
    """The exception that a worker left in its error file: the name of its class, its message, its traceback."""

    kind: str
    message: str
    traceback: str


def run_workers(settings: Launch, command: Sequence[str], memory_advice: str, again: str = _GO_ON) -> int:
    """Run `python COMMAND...` in every process of this machine, pass signals on, and return the exit code.

    `again` is what a person is told to do after a process has died, beside `memory_advice`.

    Raises the `UserError` of a worker, one with `memory_advice` (what to change) if the kernel has killed a worker for want of
    memory, or the `Interrupted` on which all of them agreed. After a signal to this process itself it does not return, but
    ends it.
    """
    config = _prepare_launch(settings)
    if settings.num_machines > 1:
        print(f"meeting the other machines at {config.rdzv_endpoint}", flush=True)
    # What the agent would log, is told here in words that say what to do.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        with _folder_of_records() as folder:
            return _run_agent(config, command, folder, memory_advice, again)
    except _Signalled as stopped:
        print(stopped, file=sys.stderr)
        end_at_once(128 + stopped.signum)  # the agent's heartbeat goes on in a thread, which is in C++
    except RendezvousClosedError:
        logger.error("another machine has ended this run; see what it says")
        return 1
    except RendezvousError as error:
        logger.error(
            "the %d machines of this run have not met at %s, or not any more (%s); start `gpt pretrain` on each within %d minutes",
            settings.num_machines, config.rdzv_endpoint, error, _MEETING_SECONDS // 60,
        )  # fmt: skip
        return 1


def _run_agent(config: LaunchConfig, command: Sequence[str], folder: Path, memory_advice: str, again: str) -> int:
    """Do what torch's `launch_agent` does, with an agent that knows when not to start workers again."""
    rendezvous = get_rendezvous_handler(
        RendezvousParameters(
            backend=config.rdzv_backend,
            endpoint=config.rdzv_endpoint,
            run_id=config.run_id,
            min_nodes=config.min_nodes,
            max_nodes=config.max_nodes,
            local_addr=config.local_addr,
            **config.rdzv_configs,
        )
    )
    spec = WorkerSpec(
        role="trainer",
        local_world_size=config.nproc_per_node,
        entrypoint=sys.executable,
        args=tuple(command),
        rdzv_handler=rendezvous,
        max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval,
        local_addr=config.local_addr,
        numa_options=config.numa_options,
    )
    agent = _Agent(spec, folder, memory_advice)
    try:
        result: Any = agent.run()  # RunResult; None, if it left before its workers ended. `@prof` hides the types
    except SignalException as error:  # the rendezvous stays open: other machines' workers save and end by themselves
        raise _Signalled(error.sigval, agent.describe_stop(error.sigval)) from None
    except BaseException:
        rendezvous.shutdown()
        raise
    rendezvous.shutdown()
    if result is not None and result.state == WorkerState.SUCCEEDED:
        return 0
    if result is None or not result.failures:
        raise RendezvousClosedError  # the agent has left, though no worker of this machine failed
    rank, failure = _first_failure(result.failures)
    logger.error(
        "process %d %s, after %d restarts; %s%s",
        rank, describe_kill(failure.exitcode), config.max_restarts, again,
        f", or if memory was short: {memory_advice}" if failure.exitcode == -signal.SIGKILL else "",
    )  # fmt: skip
    return 1


class _Agent(LocalElasticAgent):
    """torchrun's agent, but for ends after which it would be wrong to start again: a user's error, a stop, want of memory."""

    def __init__(self, spec: WorkerSpec, folder: Path, memory_advice: str) -> None:
        super().__init__(spec, DefaultLogsSpecs(str(folder)), shutdown_timeout=_SHUTDOWN_SECONDS)
        self._memory_advice, self._kills = memory_advice, KillWatch()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See how workers are; raise what one of them recorded if that ends the run."""
        self._kills.look()
        ended = self._ended_workers()  # by themselves: after the first failure the agent ends the others
        result: Any = super()._monitor_workers(worker_group)  # pyright: ignore[reportCallIssue]
        if not result.is_failed():
            return result
        records = self._records()
        for record in records:
            if record.kind == UserError.__name__:
                raise UserError(record.message)
        for record in records:
            if record.kind == Interrupted.__name__:
                raise Interrupted(_signal_of(result.failures), record.message)
        causes = {rank: failure for rank, failure in result.failures.items() if failure.pid in ended}
        result = replace(result, failures=causes or result.failures)
        rank, failure = _first_failure(result.failures)
        if failure.exitcode == -signal.SIGKILL and self._kills.has_killed():
            raise UserError(f"process {rank} {describe_kill(failure.exitcode, by_kernel=True)}; {self._memory_advice}")
        if Path(failure.error_file).is_file():
            print(redact(_read_record(Path(failure.error_file)).traceback), file=sys.stderr, flush=True)
        if self._remaining_restarts:
            restart = worker_group.spec.max_restarts - self._remaining_restarts + 1
            logger.warning(
                "process %d %s; all start again from the last checkpoint (restart %d of %d)",
                rank, describe_kill(failure.exitcode), restart, worker_group.spec.max_restarts,
            )  # fmt: skip
        return result

    def describe_stop(self, signum: int) -> str:
        """Return what workers said when they stopped after a signal to us."""
        stops = (record.message for record in self._records() if record.kind == Interrupted.__name__)
        return next(stops, f"stopped by {signal.Signals(signum).name}; run it again to go on")

    def _ended_workers(self) -> set[int]:
        """Return the process numbers of workers that have ended."""
        if not isinstance(self._pcontext, SubprocessContext):
            return set()
        processes = (handler.proc for handler in self._pcontext.subprocess_handlers.values())
        return {process.pid for process in processes if process.poll() is not None}

    def _records(self) -> list[_Record]:
        """Return what the last workers recorded, the earliest first."""
        files = [Path(file) for file in self._pcontext.error_files.values()] if self._pcontext else []
        return [
            _read_record(file) for file in sorted(filter(Path.is_file, files), key=lambda file: file.stat().st_mtime_ns)
        ]


def _read_record(file: Path) -> _Record:
    message = json.loads(file.read_text(encoding="utf-8"))["message"]
    kind, _, text = message["message"].partition(": ")
    return _Record(kind, text, message["extraInfo"]["py_callstack"])


def _first_failure(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return rank and failure of the worker that the others failed for: one that was killed, else the first seen."""
    killed = (entry for entry in failures.items() if entry[1].exitcode < 0)
    return next(killed, next(iter(failures.items())))


def _signal_of(failures: Mapping[int, ProcessFailure]) -> int:
    """Return the signal that the workers stopped for."""
    codes = (failure.exitcode for failure in failures.values())
    return next((code - 128 for code in codes if code > 128), signal.SIGTERM)


@contextmanager
def _folder_of_records() -> Iterator[Path]:
    """Make a folder for error files; while it is locked, what tidies old temporary files (systemd-tmpfiles) leaves it alone."""
    with tempfile.TemporaryDirectory(prefix="gpt_workers_") as name:
        folder = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_SH)
            yield Path(name)
        finally:
            os.close(folder)


def _prepare_launch(settings: Launch) -> LaunchConfig:
    """Set the workers' environment and return what torchrun would be told.

    Raises `UserError` if machines cannot meet where they shall.
    """
    threads = max(1, usable_cores() // settings.num_processes)  # the agent would give each process one
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ[OWNER] = str(os.getpid())
    # In the agent's own store workers would find the addresses of those that died before them, and wait for these.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    is_alone = settings.num_machines == 1
    rendezvous = "127.0.0.1:0" if is_alone else _rendezvous()
    address, interface, is_host = _own_address(rendezvous)
    if interface:  # Gloo would take the one that the host's name stands for, which the others may not reach
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    return LaunchConfig(
        min_nodes=settings.num_machines,
        max_nodes=settings.num_machines,
        nproc_per_node=settings.num_processes,
        run_id=uuid.uuid4().hex if is_alone else "gpt-pretrain",
        rdzv_backend="c10d",
        rdzv_endpoint=rendezvous,
        # Of the host, torch would go by its name, which need not stand for this address.
        rdzv_configs={"is_host": is_host, "join_timeout": _MEETING_SECONDS, "read_timeout": _MEETING_SECONDS},
        local_addr=address,
        max_restarts=settings.max_restarts,
    )


def _rendezvous() -> str:
    """Return where machines meet; raise `UserError` if that is no address."""
    address = os.environ[RENDEZVOUS]
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"{RENDEZVOUS} = {address!r}: must be HOST:PORT, with a port from 1 to 65535")
    try:
        own = _own_address(address)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"{RENDEZVOUS} = {address!r}: the host cannot be found ({error}); correct its name") from None
    if ipaddress.ip_address(own.partition("%")[0]).is_loopback:
        raise UserError(
            f"{RENDEZVOUS} = {address!r}: no other machine can reach {own}; give this one's address in the network"
        )
    return address


def _own_address(rendezvous: str) -> tuple[str, str | None, bool]:
    """Return this machine's address on the way to where machines meet, its network interface, and whether they meet here."""
    host, _, port = rendezvous.rpartition(":")
    family, kind, _, _, there = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(there)  # sends nothing
        address = probe.getsockname()[0]
    for name, found in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in found):
            return address, name, address == there[0]
    return address, None, address == there[0]
