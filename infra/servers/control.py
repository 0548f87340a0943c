"""Start, end and show the servers of one machine: `make up`, `make down`, `make status`.

PostgreSQL, MLflow, Prefect, a worker and metrics of it all, without containers, on loopback, under a supervisor that starts again
what ends. All that they keep lies in the folder `servers/` of the project.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click

from gpt.entry import begin, end_with
from gpt.errors import UserError
from gpt.paths import ensure_user, enter_project
from infra.servers import postgres, supervision
from infra.servers.place import (
    ARTIFACTS,
    ENVIRONMENT,
    FOLDER,
    LOGS,
    PREFECT_HOME,
    Settings,
    is_taken,
    load_settings,
    make_settings,
    write_private,
)  # fmt: skip
from infra.servers.programs import Program, become, programs

_HEALTHY_SECONDS = 180.0
_POLL_SECONDS = 0.5
_LOG_LINES = 15


@click.group()
def cli() -> None:
    """The servers of this machine: PostgreSQL, MLflow, Prefect, a worker and metrics."""
    enter_project()
    ensure_user()
    if not Path("params.yaml").is_file():
        raise UserError(f"params.yaml: not found in {Path.cwd()}; run this in the project's folder")


@cli.command()
def up() -> None:
    """Start them, wait until all answer, and deploy the flows. What runs already stays as it is."""
    settings = make_settings(load_settings())
    for folder in (LOGS, ARTIFACTS, PREFECT_HOME):
        folder.mkdir(parents=True, exist_ok=True)
    servers = programs(settings)
    if not supervision.is_running(settings):
        _check_ports(settings)
        postgres.make_cluster(settings)
        supervision.start(settings, servers)
    supervision.add_missing(settings, servers)
    _wait_until_healthy(settings, servers)
    write_private(ENVIRONMENT, "".join(f"export {name}='{value}'\n" for name, value in settings.environment().items()))
    if code := _deploy(settings):
        sys.exit(code)
    _show(settings, servers)
    print(f"\nUse them in a shell:  . {ENVIRONMENT}\nEnd them:             make down")


@cli.command()
def down() -> None:
    """End them all; what they keep stays."""
    settings = load_settings()
    if settings is None or not supervision.is_running(settings):
        print("nothing runs")
        return
    print("ending the servers; a run that trains saves first", flush=True)
    supervision.stop(settings)


@cli.command()
def status() -> None:
    """Show which of them run and answer; exit code 1 unless all do."""
    settings = load_settings()
    if settings is None or not supervision.is_running(settings):
        print("nothing runs; `make up` starts the servers")
        sys.exit(1)
    if not _show(settings, programs(settings)):
        sys.exit(1)


@cli.command(hidden=True)
@click.argument("name")
def run(name: str) -> None:
    """Be one of them: what the supervisor starts."""
    settings = load_settings()
    assert settings
    servers = programs(settings)
    become(servers[name], servers)


def main() -> int:
    """Run a command; return 0 done, 1 failed, 2 the user must change something."""
    begin()
    return end_with(_run)


def _run() -> int:
    try:
        return cli(standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.UsageError as error:
        raise UserError(f"{error.format_message()}; see `python -m infra.servers --help`") from None


def _wait_until_healthy(settings: Settings, servers: Mapping[str, Program]) -> None:
    """Wait until all answer; raise `UserError` with the last words of one that does not."""
    deadline = time.monotonic() + _HEALTHY_SECONDS
    for program in servers.values():
        print(f"{program.name:<10}", end="", flush=True)
        while not _is_healthy(settings, program):
            if time.monotonic() > deadline:
                print("does not answer")
                lines = (LOGS / f"{program.name}.log").read_text(errors="replace").splitlines()[-_LOG_LINES:]
                raise UserError(
                    "\n".join([f"{program.name} does not answer; the end of {LOGS / program.name}.log:", *lines])
                )
            time.sleep(_POLL_SECONDS)
        print(program.address or "ready")


def _is_healthy(settings: Settings, program: Program) -> bool:
    if program.name == "postgres":
        import psycopg2

        with suppress(psycopg2.OperationalError):
            postgres.make_databases(settings)
    return supervision.states(settings)[program.name]["statename"] == "RUNNING" and program.answers()


def _check_ports(settings: Settings) -> None:
    for name in ("postgres", "mlflow", "prefect", "supervisor", "metrics"):
        port = getattr(settings, f"{name}_port")
        if is_taken(port):
            raise UserError(
                f"port {port} of 127.0.0.1, which {FOLDER}/settings.json names for {name}, is taken; end what listens there, or"
                " write a free port into that file"
            )


def _deploy(settings: Settings) -> int:
    from flows.deploy import deploy

    os.environ.update(settings.environment())
    return deploy()


def _show(settings: Settings, servers: Mapping[str, Program]) -> bool:
    """Print a line for each server; return whether all run and answer."""
    known, well = supervision.states(settings), True
    for name, program in servers.items():
        state = known.get(name, {})
        running = state.get("statename") == "RUNNING"
        answers = running and program.answers()
        well &= answers
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state["start"])) if running else ""
        word = "running" if answers else "does not answer" if running else state.get("statename", "missing").lower()
        print(f"{name:<10} {word:<16} {since:<20} {program.address}".rstrip())
    return well
