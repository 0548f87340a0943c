"""Start, end and show the servers of one machine: `make up`, `make down`, `make status`.

PostgreSQL, MLflow, Prefect, a worker and metrics of it all, without containers, on loopback, under a supervisor that starts again
what ends. All that they keep lies in the folder `servers/` of the project.
"""

import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from gpt.entry import begin, end_with
from gpt.errors import UserError
from gpt.paths import current_folder, ensure_user, enter_project
from infra.servers import accounts, postgres, supervision
from infra.servers import backup as backups
from infra.servers.place import (
    ARTIFACTS,
    ENVIRONMENT,
    FOLDER,
    LOADING,
    LOGS,
    PREFECT_HOME,
    PROMOTION,
    PROMOTION_ENVIRONMENT,
    RESTORING,
    SETTINGS,
    Settings,
    choose,
    is_taken,
    load_settings,
    make_settings,
)  # fmt: skip
from infra.servers.programs import Program, become, programs
from infra.servers.schemas import bring_up_to_date

_HEALTHY_SECONDS = 180.0
_POLL_SECONDS = 0.5
_LOG_LINES = 15


class Folder(click.ParamType[Path]):
    """A folder: what it means where the user stood, whom we have left for the project's."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not value:
            self.fail("must not be empty", param, ctx)
        stood = ctx.find_object(Path) if ctx else None
        return (stood or Path()) / value


@click.group()
@click.pass_context
def cli(context: click.Context) -> None:
    """The servers of this machine: PostgreSQL, MLflow, Prefect, a worker and metrics."""
    context.obj = current_folder()
    enter_project()
    ensure_user()
    if not Path("params.yaml").is_file():
        raise UserError(f"params.yaml: not found in {Path.cwd()}; run this in the project's folder")


@cli.command()
@click.option(
    "--auth/--no-auth", default=None, help="Let MLflow and Prefect ask for passwords, from now on, or no more."
)
@click.option(
    "--public", metavar="DOMAIN", help="Answer behind a proxy as mlflow.DOMAIN and prefect.DOMAIN, from now on."
)
def up(auth: bool | None, public: str | None) -> None:
    """Start them, wait until all answer, and deploy the flows. What runs already stays as it is."""
    _check_whole()
    settings = _chosen(make_settings(load_settings()), auth, public)
    for folder in (LOGS, ARTIFACTS, PREFECT_HOME):
        folder.mkdir(parents=True, exist_ok=True)
    servers = programs(settings)
    if not supervision.is_running(settings):
        _check_ports(settings)
        with postgres.serving(settings):
            bring_up_to_date(settings)
            if settings.auth:
                accounts.prepare(settings)
        _check_ports(settings)  # that may have taken a while
        supervision.start(settings, servers)
    supervision.add_missing(settings, servers)
    _wait_until_healthy(settings, servers)
    accounts.write_environments(settings)
    if settings.auth:
        os.environ.update(settings.environment(PROMOTION))
        accounts.reserve_names(settings)
    if code := _deploy(settings):
        sys.exit(code)
    _show(settings, servers)
    print(f"\nUse them in a shell:  . {ENVIRONMENT}\nEnd them:             make down")
    if settings.auth:
        print(f"Promote:              . {PROMOTION_ENVIRONMENT}\nPasswords:            {SETTINGS}")


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


@cli.command()
@click.argument("folder", type=Folder())
@click.option("--checkpoints", is_flag=True, help="Also what runs that are not finished have saved.")
@click.option("--keep", type=click.IntRange(min=1), help="Remove all backups there but the newest KEEP.")
def backup(folder: Path, checkpoints: bool, keep: int | None) -> None:
    """Add a backup to FOLDER, while the servers run or are down: databases, artifacts, DVC's cache; it copies only what is new."""
    _check_whole()
    settings = _existing()
    made, copied = backups.back_up(settings, folder, checkpoints=checkpoints, keep=keep)
    print(
        f"backup {made.name}: {len(made.files)} files, {made.size / 1e6:.1f} MB, of which {copied / 1e6:.1f} MB were new"
    )


@cli.command()
@click.argument("folder", type=Folder())
@click.option("--backup", "name", metavar="NAME", help="One of them by its name, else the newest.")
@click.option("--replace", is_flag=True, help=f"Put {FOLDER}/ aside, if there is one, as {backups.REPLACED}/.")
@click.option("--databases", is_flag=True, help="Only the databases, into the servers that are here.")
def restore(folder: Path, name: str | None, replace: bool, databases: bool) -> None:
    """Bring a backup in FOLDER back to this project, with new passwords and free ports. All of it is verified first."""
    if databases:
        made = backups.restore_databases(_existing(), folder, name)
        print(f"the databases are those of {made.name} again; `make up` starts the servers")
        return
    made = backups.restore(folder, name, replace=replace)
    print(
        f"restored {made.name}: {len(made.files)} files, {made.size / 1e6:.1f} MB; made at commit {made.about['commit']}"
    )
    print("`make up` starts the servers, `dvc checkout` brings the outputs of this commit")


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


def _chosen(settings: Settings, auth: bool | None, public: str | None) -> Settings:
    """Return the settings with what was chosen, which holds for later starts too; raise `UserError` where it cannot be had now."""
    auth = settings.auth if auth is None else auth
    public = settings.public if public is None else public
    if (auth, public) == (settings.auth, settings.public):
        return settings
    if public and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", public):
        raise UserError(f"--public {public}: a domain as example.org is meant, without https:// and port")
    if auth:
        accounts.check_packages()
    if supervision.is_running(settings):
        raise UserError("the servers run; `make down` ends them, then choose again")
    return choose(settings, auth=auth, public=public)


def _check_whole() -> None:
    if RESTORING.exists():
        raise UserError(f"{FOLDER}/: a restore was cut off; run it again, or delete {FOLDER}/ to begin with nothing")
    if LOADING.exists():
        raise UserError(f"{FOLDER}/: a restore of the databases was cut off; run it again (restore FOLDER --databases)")


def _existing() -> Settings:
    settings = load_settings()
    if settings is None:
        raise UserError(f"{FOLDER}/: no servers were ever started here; `make up` starts them")
    return settings


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
