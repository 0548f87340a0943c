"""`python -m infra.metrics`: what training, checkpoints, servers, registry and GPUs do, for Prometheus, until Ctrl-C.

It only looks: training writes what it would write without it. `make up` runs it beside the other servers.
"""

import errno
import signal
import socket
import sys
from pathlib import Path

import click

from gpt.entry import begin, end_with
from gpt.errors import UserError
from gpt.params.project import PARAMS_FILE
from gpt.paths import ensure_user, enter_project

PORT = 9400
_NO_PLACE = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
def cli(port: int, host: str) -> None:
    """Serve the metrics of this project at /metrics."""
    enter_project()
    ensure_user()
    if not PARAMS_FILE.is_file():
        raise UserError(f"{PARAMS_FILE}: not found in {Path.cwd()}; run this in the project's folder")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _serve(port, host)
    except KeyboardInterrupt:
        print("stopped")


def _serve(port: int, host: str) -> None:
    from prometheus_client import CollectorRegistry, start_http_server

    from infra.metrics.exporter import Exporter
    from infra.metrics.servers import Servers

    servers = Servers()
    registry = CollectorRegistry()
    registry.register(Exporter(servers))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        if error.errno not in _NO_PLACE and not isinstance(error, socket.gaierror):
            raise
        raise UserError(f"--host {host} --port {port}: {error.strerror}; name another") from None
    servers.start()
    print(f"http://{host}:{server.server_port}/metrics  (Ctrl-C ends it)", flush=True)
    thread.join()


def main() -> int:
    """Serve until Ctrl-C; return 0, or 2 if that cannot be."""
    begin()
    return end_with(_main)


def _main() -> int:
    try:
        return cli(standalone_mode=False) or 0
    except click.UsageError as error:
        raise UserError(error.format_message()) from None


if __name__ == "__main__":
    sys.exit(main())
