"""A tracking server that goes and comes back while training goes on: every point is there afterwards, once."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.server import free_port
from gpt import paths
from gpt.files import read_json
from gpt.tracking.store import training_run
from tests.chaos.conftest import Family, environment, start_training

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


class Server:
    """A real MLflow server on a database in the current folder."""

    def __init__(self, family: Family) -> None:
        self._family, self._port = family, free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{Path.cwd()}/mlflow.db", "--workers", "1"]
        self._process = subprocess.Popen(
            command,
            env=environment(self._family),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def stop(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def test_an_outage_costs_no_metric(
    make_prepared_project: Callable[..., Path], family: Family, option: Callable[[str], int]
) -> None:
    outage = option("outage")
    steps = 250 * (outage + 6)
    make_prepared_project(
        train={"max_steps": steps, "log_interval": 10, "eval_interval": 1000, "sample_interval": steps}
    )
    server = Server(family)
    server.start()
    trainer = start_training(family, MLFLOW_TRACKING_URI=server.uri)
    try:
        while not list(Path().glob("checkpoints/*/step_*")):
            assert trainer.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        server.stop()
        time.sleep(outage)
        assert trainer.poll() is None, "the outage was in the middle"
        server.start()
        _, errors = trainer.communicate(timeout=600)
        assert trainer.returncode == 0, errors
        assert "training goes on, metrics are kept in spool/" in errors
        client = MlflowClient(server.uri)
        run_id = training_run(client, "shakespeare-gpt", read_json(paths.RUN, "")["fingerprint"]).info.run_id
        for metric, interval in (("train/loss", 10), ("train/gradient_norm", 10), ("validation/loss", 1000)):
            found = sorted(point.step for point in client.get_metric_history(run_id, metric))
            assert found == sorted({*range(interval, steps + 1, interval), steps})
        assert client.get_run(run_id).info.status == "FINISHED"
        assert not list(Path("spool").glob("*.jsonl"))
    finally:
        trainer.kill()
        trainer.communicate()
        server.stop()
