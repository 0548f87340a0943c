"""The MLflow store and the Prefect server that the environment names, and the way to them. It looks, and leaves nothing behind."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt import addresses
from gpt.commands.checks.finding import Finding
from gpt.errors import UserError
from gpt.paths import why_unwritable
from gpt.secrets.hiding import public_uri

_SECONDS = 5.0


def servers() -> Iterator[Finding]:
    """Yield what there is to say of MLflow, Prefect and the proxies."""
    yield _found("MLflow", _mlflow)
    yield _found("Prefect", _prefect)
    yield from _proxies()


def _found(subject: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except UserError as error:
        return "missing", subject, str(error)


def _mlflow() -> Finding:
    from gpt.tracking.store import check_reachable, database_file, tracking_uri

    uri = tracking_uri()
    addresses.check_registry_address()
    check_reachable(uri)
    shown = public_uri(uri)
    if file := database_file(uri):
        if not file.exists():
            return "ok", "MLflow", f"{shown}, which the first run makes (no server needed)"
        _check_schema(file)
    return "ok", "MLflow", shown if addresses.mlflow_address() else f"{shown} (no server needed)"


def _check_schema(file: Path) -> None:
    """Raise `UserError` if a database of MLflow's was made by another version of it."""
    from gpt.tracking.location import read_only

    try:
        with read_only(file) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master")}
            if "alembic_version" not in tables:
                if tables:
                    raise UserError(f"{file}: not a database of MLflow's; move it away, or correct {addresses.MLFLOW}")
                return  # empty: MLflow fills it
            ((found,),) = database.execute("select version_num from alembic_version")
    except sqlite3.Error as error:
        raise UserError(f"{file}: cannot be read ({error}); move it away, or correct {addresses.MLFLOW}") from None
    if found not in _schemas():
        raise UserError(f"{file}: made by a newer MLflow than the one installed; install that one")
    if found != _schemas()[0]:
        raise UserError(f"{file}: made by an older MLflow; copy it, then `mlflow db upgrade sqlite:///{file}`")


def _schemas() -> list[str]:
    """Return the versions of MLflow's tables, the newest first, without importing MLflow, which takes seconds."""
    from importlib.util import find_spec

    from alembic.script import ScriptDirectory

    spec = find_spec("mlflow")
    assert spec and spec.origin
    scripts = ScriptDirectory(str(Path(spec.origin).parent / "store" / "db_migrations"))
    return [revision.revision for revision in scripts.walk_revisions()]


def _prefect() -> Finding:
    url = addresses.prefect_address()
    addresses.check_proxies()
    if not url:
        home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
        if reason := why_unwritable(home):
            if os.environ.get("PREFECT_HOME"):
                raise UserError(f"PREFECT_HOME = {home}: {reason}; name a folder that can be written, or unset it")
            return (
                "note",
                "Prefect",
                f"{reason}: a flow keeps its record in .cache/prefect; PREFECT_HOME names another place",
            )
        return "ok", "Prefect", "PREFECT_API_URL is not set: a flow starts its own server while it runs"
    try:
        if not addresses.is_prefect(url, _SECONDS):
            raise addresses.not_prefect(addresses.PREFECT, url)
    except addresses.Unreachable as error:
        raise UserError(f"{public_uri(url)}: {error}; start it, or unset {addresses.PREFECT}") from None
    return "ok", "Prefect", public_uri(url)


def _proxies() -> Iterator[Finding]:
    """Yield the proxies that the environment names."""
    for proxy in addresses.proxies():
        yield "note", "proxy", f"{proxy.described}; servers of this machine are asked without it"
