"""A Prefect API for a flow that is run by hand: the configured one, else an embedded one for as long as we live.

Prefect can start a temporary server itself, but only after its own imports, and that server dies of the terminal's
Ctrl-C before the flow's end is recorded, and outlives a SIGKILL of the flow. Ours starts beside them and is owned.
"""

import atexit
import logging
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import IO

from flows.processes import started
from gpt.secrets import public_uri, without_userinfo

_START_SECONDS = 120.0  # the first start on a machine makes the database: 10 to 20 seconds
_STOP_SECONDS = 5.0
_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # tries the network
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",  # no flow here uses blocks
    "DO_NOT_TRACK": "1",
}


def ensure_api() -> None:
    """Leave PREFECT_API_URL pointing to a server that answers; call it before Prefect is imported.

    An embedded server is stopped when this process ends, after Prefect has delivered its last events and logs.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    configured = os.environ.get("PREFECT_API_URL")
    if configured and answers(configured):
        return
    stack = ExitStack()
    atexit.register(stack.close)  # before Prefect registers its own exit work, hence run after it
    url, wait_until_healthy = stack.enter_context(embedded_server())

    # Slow, and needed anyway. Only Prefect knows whether a profile or a prefect.toml names an API; then we need none.
    import prefect.flow_engine  # noqa: F401
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    configured = configured or PREFECT_API_URL.value()
    if configured:
        if answers(configured):
            stack.close()
            return
        print(
            f"warning: {public_uri(configured)}: no Prefect server answers; an embedded one records this run",
            file=sys.stderr,
        )
    wait_until_healthy()
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
    # The embedded server has no UI to view a run at.
    logging.getLogger("prefect.flow_runs").addFilter(lambda record: not record.getMessage().startswith("View at "))


@contextmanager
def embedded_server(env: Mapping[str, str] | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """Begin to start a server on a free port; yield its API's address and a function that waits until it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "flows.server", str(port)]
    env = {name: value for name, value in (env or os.environ).items() if name != "PREFECT_API_URL"}
    with tempfile.TemporaryFile() as log:
        output = log.fileno()
        with started(command, cwd=Path.cwd(), env=env, output=output, grace_seconds=_STOP_SECONDS) as server:
            yield url, lambda: _wait_until_healthy(url, server, log)


def free_port(preferred: int = 0) -> int:
    """Return a loopback port that nobody listens on now, the preferred one if it is such."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
        return probe.getsockname()[1]


def is_healthy(url: str) -> bool:
    """Whether a server on this machine is ready at an API address."""
    # Without the proxy that the environment may name: it cannot reach our loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{without_userinfo(url)}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def answers(url: str) -> bool:
    """Whether anything speaks HTTP at an API address; who may use it, Prefect finds out."""
    try:
        with urllib.request.urlopen(f"{without_userinfo(url)}/health", timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _wait_until_healthy(url: str, server: Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_healthy(url):
        if server.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()[-5:]
            raise RuntimeError("\n".join(["Prefect's embedded server did not start", *said]))
        time.sleep(0.05)


def _serve(port: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    # Ephemeral: the services that record runs and events, no scheduler, no UI.
    app = create_app(ephemeral=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
