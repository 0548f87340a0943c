"""A real MLflow server, as infra/ starts one."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.server import free_port

_START_SECONDS = 120


@contextmanager
def mlflow_server(
    folder: Path, *, store: str | None = None, port: int | None = None, workers: int = 1
) -> Iterator[str]:
    """Yield the address of a server on `mlflow.db` in a folder, or another store, which keeps its artifacts in the folder too."""
    port = port or free_port()
    server = start_mlflow(folder, store or f"sqlite:///{folder}/mlflow.db", port, workers)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def start_mlflow(folder: Path, store: str, port: int, workers: int = 1) -> subprocess.Popen[bytes]:
    """Start a server as a group of processes of its own; return when it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers), "--backend-store-uri", store]
    command += ["--artifacts-destination", str(folder / "served")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return server
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.1)
