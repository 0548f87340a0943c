"""Run the deployments of prefect.yaml on this machine until Ctrl-C: `make schedule`.

Uses the Prefect server at PREFECT_API_URL, or starts one on loopback with its UI; then deploys and runs a process worker.
Everything started here ends with it, a flow run with its trainer included.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from flows.deploy import POOL, PREFECT, check_project, deploy
from flows.server import configured_api, free_port, is_healthy, not_started, prepare_prefect
from gpt.entry import begin, end_with
from gpt.paths import ensure_user, enter_project
from gpt.processes.trees import running
from gpt.secrets.hiding import public_uri

_START_SECONDS = 120.0
_KEEPER_SECONDS = 15.0  # for its last look, after the worker's end


def main() -> int:
    """Deploy and serve runs; return 0 when stopped by Ctrl-C, otherwise the exit code of what failed."""
    begin()
    return end_with(_schedule)


def _schedule() -> int:
    enter_project()
    ensure_user()
    check_project()
    prepare_prefect()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
    try:
        with server() as url:
            return deploy() or _serve(url)
    except KeyboardInterrupt:
        print("stopped")
        return 0


@contextmanager
def server() -> Iterator[str]:
    """Yield the address of the API: the configured one, else that of a server that lives as long as the block."""
    if configured := configured_api():
        yield configured
        return
    said = b""
    for preferred in (4200, 0):  # another program may take the first one in the moment in which we choose it
        port = free_port(preferred=preferred)
        url = f"http://127.0.0.1:{port}/api"
        command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        env = os.environ | {
            "PREFECT_API_URL": url,
            "PREFECT_UI_API_URL": url,
        }  # the UI would look for the API at port 4200
        print(f"starting a Prefect server at {_ui(url)} (the first start takes longer)", flush=True)
        with (
            tempfile.TemporaryFile() as log,
            running.started(command, cwd=Path.cwd(), env=env, output=log.fileno()) as own,
        ):
            if _becomes_healthy(own, url, port):
                os.environ["PREFECT_API_URL"] = url
                yield url
                return
            log.seek(0)
            said = log.read()
    raise not_started(said)


def _becomes_healthy(own: subprocess.Popen[bytes], url: str, port: int) -> bool:
    """Wait until the server that we have started answers; False if it ends or another program has its port."""
    deadline = time.monotonic() + _START_SECONDS
    while own.poll() is None and time.monotonic() < deadline:
        if is_healthy(url) and _listens(own, port):
            return True
        time.sleep(0.1)
    return False


def _listens(own: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the listener at a port belongs to what we have started."""
    with suppress(psutil.Error):  # one of them has ended
        return any(
            each.status == psutil.CONN_LISTEN and each.laddr.port == port
            for process in psutil.Process(own.pid).children(recursive=True)
            for each in process.net_connections("tcp")
        )
    return False


def _serve(url: str) -> int:
    print("a worker starts here", flush=True)
    print(
        f"\nPrefect's UI: {_ui(url)}\nRun it now:   prefect deployment run pretrain/nightly (or reproduce/weekly)",
        flush=True,
    )
    print(f"              with PREFECT_API_URL={public_uri(url)}\nStop:         Ctrl-C\n", flush=True)
    keeper = (sys.executable, "-m", "flows.keeper")
    with running.started(keeper, cwd=Path.cwd(), output=sys.stdout.fileno(), grace_seconds=_KEEPER_SECONDS):
        worker = (*PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--limit", "1")
        return running.run(worker, cwd=Path.cwd(), on_line=lambda line: print(line, flush=True))


def _ui(url: str) -> str:
    return public_uri(url).removesuffix("/api")


if __name__ == "__main__":
    sys.exit(main())
