"""`gpt serve`: the models behind OpenAI's routes and a page to talk, until Ctrl-C."""

import logging
import socket
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import uvicorn

from gpt.errors import UserError
from gpt.processes.cores import bound_threads
from gpt.serving.api.app import Settings, create_app
from gpt.serving.api.arrival import read_keys
from gpt.serving.catalogue import Catalogue
from gpt.serving.served import Limits

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LEAVE_SECONDS = 30
"After Ctrl-C, answers that have begun may go on so long."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    "0: any that is free."


def serve(
    specs: Sequence[str],
    default_name: str,
    address: Address,
    *,
    key_file: Path | None,
    limits: Limits,
    timeout_seconds: float,
) -> int:
    """Serve models until Ctrl-C; raise `UserError` if one cannot be loaded or the address cannot be had."""
    keys = read_keys(key_file) if key_file else ()
    listening = _listen(address)
    with ThreadPoolExecutor(1, "model") as thread:
        _let_compute(thread)
        catalogue = Catalogue(specs, default_name, thread, limits)
        app = create_app(catalogue, thread, Settings(keys, timeout_seconds))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=_LEAVE_SECONDS, server_header=False
        )
        for model in catalogue.models:
            print(f"{model.name}: {model.parameters:,} parameters, {model.kind}, {model.context} tokens of context")
        if listening.getsockname()[0] not in _LOOPBACK and not keys:
            logger.warning("anybody who reaches %s may ask without a key; --api-key-file FILE wants one", address.host)
        _Server(config).run(sockets=[listening])
    return 0


def _let_compute(thread: Executor) -> None:
    """Let one thread compute on all cores, and the others, which load models, on one.

    OpenMP keeps helpers for each thread that computes. Where there are more of them than cores, GNU's lets each sleep as soon as it
    waits (throttled spinning, libgomp/config/linux/wait.h), and to wake it takes longer than a small model's matrix product: a step
    of one token took twice as long.
    """
    thread.submit(bound_threads).result()
    thread.submit(torch.get_num_threads).result()  # the thread's own number, before that of all later ones changes
    torch.set_num_threads(1)


class _Server(uvicorn.Server):
    """Says where it is when it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            host, port = each.getsockname()[:2]
            address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            print(f"{address}  the page; OpenAI's clients: base_url {address}/v1  (Ctrl-C ends it)", flush=True)


def _listen(address: Address) -> socket.socket:
    """Return a socket at the address, before minutes are spent on loading."""
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
    except OSError as error:
        raise UserError(
            f"{address.host}:{address.port}: cannot be served ({error.strerror or error}); give another --port, 0 for any"
        ) from None
    return listening
