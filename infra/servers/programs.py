"""The servers of one machine: what each is started with, what it needs before, and how to see that it answers.

PostgreSQL keeps the databases of MLflow and Prefect; MLflow hands artifacts through itself, so that clients need no folder of its
own; a worker runs what Prefect schedules; Prometheus is told of all of it. All listen on loopback.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flows.deploy import POOL
from flows.server import is_healthy
from gpt.processes.trees import running, supervisor
from gpt.registry.packaging.offer import SUFFIX
from infra.servers import postgres
from infra.servers.place import ARTIFACTS, MLFLOW_ACCOUNTS, PREFECT_HOME, Settings

_POLL_SECONDS = 0.5
_WORKER_GRACE_SECONDS = running.GRACE_SECONDS + 15  # a run's own processes get theirs within it


@dataclass(frozen=True)
class Program:
    """A server: its command and environment, what must answer before it starts, and whether it answers."""

    name: str
    command: tuple[str, ...]
    answers: Callable[[], bool]
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_seconds: float = 20.0
    address: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    owns_tree: bool = True
    "Whether the processes that it starts are ended with it by us; PostgreSQL does so itself."


def programs(settings: Settings) -> dict[str, Program]:
    """Return the servers by their names, in the order in which they start."""
    string = settings.environment().get("PREFECT_API_AUTH_STRING")
    made = [
        Program(
            "postgres",
            postgres.command(settings),
            lambda: postgres.is_ready(settings),
            owns_tree=False,
            stop_signal=signal.SIGINT,  # SIGTERM would wait for all clients to leave
            address=f"127.0.0.1:{settings.postgres_port}",
        ),
        Program(
            "mlflow",
            _module(
                f"mlflow server --host 127.0.0.1 --port {settings.mlflow_port} --workers 2"
                f"{' --app-name basic-auth' if settings.auth else ''} --artifacts-destination",
                str(ARTIFACTS.absolute()),
            ),
            lambda: is_healthy(settings.mlflow),
            needs=("postgres",),
            # Not in its arguments, which everybody on the machine can read.
            environment={
                "MLFLOW_BACKEND_STORE_URI": settings.database("mlflow", "postgresql+psycopg2"),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                **_names_of_mlflow(settings),
                **_accounts_of_mlflow(settings),
            },
            address=settings.mlflow,
        ),
        Program(
            "prefect",
            _module(f"prefect --no-prompt server start --host 127.0.0.1 --port {settings.prefect_port}"),
            lambda: is_healthy(settings.prefect),
            needs=("postgres",),
            environment={
                "PREFECT_API_DATABASE_CONNECTION_URL": settings.database("prefect", "postgresql+asyncpg"),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                # What its pages ask, from the browser.
                "PREFECT_UI_API_URL": f"https://prefect.{settings.public}/api" if settings.public else settings.prefect,
                "PREFECT_HOME": str(PREFECT_HOME.absolute()),
                "PREFECT_API_URL": settings.prefect,
                **({"PREFECT_SERVER_API_AUTH_STRING": string} if string else {}),
            },
            address=settings.prefect.removesuffix("/api"),
        ),
        Program(
            "metrics",
            _module(f"infra.metrics --port {settings.metrics_port}"),
            lambda: is_healthy(settings.metrics),
            environment=settings.environment(),
            address=settings.metrics,
        ),
        Program(
            "keeper",
            _module("flows.keeper"),
            lambda: True,
            needs=("prefect",),
            environment={"PREFECT_HOME": str(PREFECT_HOME.absolute()), **settings.environment()},
        ),
        # Ended first: the keeper has a last look at what it ran.
        Program(
            "worker",
            _module(f"prefect --no-prompt worker start --pool {POOL} --type process --limit 1"),
            lambda: True,
            needs=("mlflow", "prefect"),
            environment={"PREFECT_HOME": str(PREFECT_HOME.absolute()), **settings.environment()},
            grace_seconds=_WORKER_GRACE_SECONDS,
        ),
    ]
    return {program.name: program for program in made}


def become(program: Program, others: Mapping[str, Program]) -> None:
    """Wait until what a program needs answers, then let this process be the program. It ends with our parent, however that ends."""
    while not all(others[name].answers() for name in program.needs):
        time.sleep(_POLL_SECONDS)
    command = list(program.command)
    if program.owns_tree:
        command = [sys.executable, "-I", "-S", supervisor.__file__, str(program.grace_seconds), *command]
    if program.name == "postgres":
        postgres.leave_root()
    supervisor.die_with_parent(program.stop_signal)
    os.execve(command[0], command, {**_inherited(), **program.environment})


def _names_of_mlflow(settings: Settings) -> dict[str, str]:
    """Return the variables by which MLflow answers to the name of a proxy too, and takes what its own pages there send."""
    if not settings.public:
        return {}
    name = f"mlflow.{settings.public}"
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"localhost:*,127.0.0.1:*,{name},{name}:*",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"https://{name}",
    }


def _accounts_of_mlflow(settings: Settings) -> dict[str, str]:
    """Return where MLflow finds its accounts. It reads that file whenever it is named, also when it asks for no password."""
    if not settings.auth:
        return {}
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(MLFLOW_ACCOUNTS.absolute()),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.mlflow_secret,
    }


def _module(words: str, *more: str) -> tuple[str, ...]:
    """Return the command that runs a module of Python with these words, and more that may have spaces."""
    return (sys.executable, "-m", *words.split(), *more)


def _inherited() -> dict[str, str]:
    """Return our environment without addresses of other servers and accounts there, which a server would take for its own."""
    others = (
        "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
        "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", SUFFIX,
    )  # fmt: skip
    return {name: value for name, value in os.environ.items() if name not in others}
