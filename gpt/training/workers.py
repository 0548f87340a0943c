"""`gpt pretrain` in several processes: torchrun's agent, run here, starts them, and starts them again when one of them dies."""

import logging
import os
import signal
import socket
import sys
import uuid
from types import FrameType

from gpt.errors import UserError
from gpt.params import Launch
from gpt.training.launch import RENDEZVOUS
from gpt.training.owner import OWNER

# From a signal to SIGKILL: to agree on it, and to save.
_SHUTDOWN_SECONDS = 30

logger = logging.getLogger(__name__)


def _rendezvous() -> str:
    """Return where machines meet; raise `UserError` if that is no address."""
    address = os.environ[RENDEZVOUS]
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"{RENDEZVOUS} = {address!r}: must be HOST:PORT, with a port from 1 to 65535")
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{RENDEZVOUS} = {address!r}: the host cannot be found ({error}); correct its name") from None
    return address


class _GiveUp(BaseException):
    """A worker met what only the user can change: to start it again would end the same way."""


def run_workers(settings: Launch) -> int:
    """Run `gpt pretrain` in every process of this machine, pass signals on, and return the exit code."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = max(1, (os.cpu_count() or 1) // settings.num_processes)  # the agent would give each process one
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ[OWNER] = str(os.getpid())
    # In the agent's own store workers would find the addresses of those that died before them, and wait for these.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    here, loopback = settings.num_machines == 1, "127.0.0.1"
    if here and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    config = LaunchConfig(
        min_nodes=settings.num_machines,
        max_nodes=settings.num_machines,
        nproc_per_node=settings.num_processes,
        run_id=uuid.uuid4().hex if here else "gpt-pretrain",
        rdzv_backend="c10d",
        rdzv_endpoint=f"{loopback}:0" if here else _rendezvous(),
        local_addr=loopback if here else None,
        max_restarts=settings.max_restarts,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )

    def give_up(_signum: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # every worker says so, and one is enough
        raise _GiveUp

    signal.signal(signal.SIGUSR1, give_up)
    try:
        elastic_launch(config, sys.executable)("-m", "gpt.cli", "pretrain")
    except SignalException as error:
        # The agent's heartbeat goes on in a thread, and an interpreter that ends would tear it out of C++, which aborts.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + error.sigval)
    except _GiveUp:
        return 2
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        logger.error(
            "process %d ended with exit code %d, after %d restarts; run it again to go on from the last checkpoint",
            rank, failure.exitcode, settings.max_restarts,
        )  # fmt: skip
        return 1
    return 0
