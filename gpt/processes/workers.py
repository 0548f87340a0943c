"""`gpt pretrain` in several processes: torchrun's agent, run here, starts them, and starts them again when one of them dies."""

import ipaddress
import logging
import os
import signal
import socket
import sys
import uuid
from types import FrameType
from typing import TYPE_CHECKING

import psutil

from gpt.errors import UserError
from gpt.params.launch import Launch
from gpt.processes.launch import RENDEZVOUS
from gpt.processes.owner import OWNER

# From a signal to SIGKILL: to agree on it, and to save.
_SHUTDOWN_SECONDS = 30
# Machines wait so long for each other, at the start and for one that was cut off.
_MEETING_SECONDS = 600

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

logger = logging.getLogger(__name__)


class _End(BaseException):
    """A worker said that all of them end: to start them again would be wrong. Its value is the exit code."""


def _end(signum: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # every worker says so, and one is enough
    raise _End(2 if signum == signal.SIGUSR1 else 128 + signal.SIGTERM)


def run_workers(settings: Launch) -> int:
    """Run `gpt pretrain` in every process of this machine, pass signals on, and return the exit code."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    config = _prepare_agent(settings)
    if settings.num_machines > 1:
        print(f"meeting the other machines at {config.rdzv_endpoint}", flush=True)
    signal.signal(signal.SIGUSR1, _end)
    signal.signal(signal.SIGUSR2, _end)
    try:
        elastic_launch(config, sys.executable)("-m", "gpt.commands.main", "pretrain")
    except SignalException as error:
        # The agent's heartbeat goes on in a thread, and an interpreter that ends would tear it out of C++, which aborts.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + error.sigval)
    except _End as end:
        return end.args[0]
    except RendezvousClosedError:
        logger.error("another machine has ended this run; see what it says")
        return 1
    except RendezvousError as error:
        logger.error(
            "the %d machines of this run have not met at %s, or not any more (%s); start `gpt pretrain` on each within %d minutes",
            settings.num_machines, config.rdzv_endpoint, error, _MEETING_SECONDS // 60,
        )  # fmt: skip
        return 1
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        logger.error(
            "process %d ended with exit code %d, after %d restarts; run it again to go on from the last checkpoint",
            rank, failure.exitcode, settings.max_restarts,
        )  # fmt: skip
        return 1
    return 0


def _prepare_agent(settings: Launch) -> "LaunchConfig":
    """Set the workers' environment and return what torchrun's agent is to do.

    Raises `UserError` if machines cannot meet where they shall.
    """
    from torch.distributed.launcher.api import LaunchConfig

    threads = max(1, (os.cpu_count() or 1) // settings.num_processes)  # the agent would give each process one
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
        shutdown_timeout=_SHUTDOWN_SECONDS,
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
