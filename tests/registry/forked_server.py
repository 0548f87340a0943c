"""A real MLflow server that is killed and started again in a moment: MLflow is imported once, and each start is a fork.

`python -m tests.registry.forked_server PORT` does `start` and `kill` for each such line, and answers when it is done.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests import ROOT


class ForkedServer:
    """Serves `mlflow.db` of a folder, and keeps its artifacts there; it is down until `start`."""

    def __init__(self, folder: Path, port: int) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "served"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, "-m", "tests.registry.forked_server", str(port)]
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.is_up = False

    def start(self) -> None:
        self._ask("start")
        self.is_up = True

    def kill(self) -> None:
        """Kill it with SIGKILL, if it is up."""
        if self.is_up:
            self._ask("kill")
        self.is_up = False

    def end(self) -> None:
        self.kill()
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _ask(self, what: str) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line == f"{what} done\n", line


def serve(port: int) -> None:
    """Serve in this process, from a socket that listens already when `start done` is told."""
    import uvicorn
    from mlflow.server.fastapi_app import app

    listener = socket.create_server(("127.0.0.1", port))
    print("start done", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


def main(port: int) -> None:
    import mlflow.server.fastapi_app  # noqa: F401 (once, for all forks)

    child = 0
    for line in sys.stdin:
        if line == "kill\n":
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print("kill done", flush=True)
            continue
        child = os.fork()
        if not child:
            sys.stdin.close()
            serve(port)
            os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
