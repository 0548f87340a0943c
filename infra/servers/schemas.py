"""The schemas of MLflow's and Prefect's databases, brought to what the installed releases use.

MLflow does not start on an older schema, Prefect upgrades one by itself. Here both are done before they start, after a backup: a
schema goes forward only, and who wants the release of before back needs the data of before.
"""

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt.errors import UserError
from infra.servers.backup import back_up_databases
from infra.servers.place import BACKUPS, PREFECT_HOME, Settings


@dataclass(frozen=True)
class _Schema:
    """Where a package keeps the revisions of a database, and where the database says which one it has."""

    package: str
    revisions: str
    table: str


_SCHEMAS = {
    "mlflow": _Schema("mlflow", "store/db_migrations/versions", "alembic_version"),
    "mlflow_auth": _Schema("mlflow", "server/auth/db/migrations/versions", "alembic_version_auth"),
    "prefect": _Schema("prefect", "server/database/_migrations/versions/postgresql", "alembic_version"),
}


def bring_up_to_date(settings: Settings) -> None:
    """Upgrade the databases whose schema is older than the installed release's, after a backup of all of them.

    PostgreSQL must take connections, the servers must not run. Raises `UserError` for a schema that a newer release made.
    """
    behind = [name for name in _SCHEMAS if _is_behind(settings, name)]
    if not behind:
        return
    print(f"upgrading the schema of {' and '.join(behind)}, after a backup of the databases", flush=True)
    made = back_up_databases(settings, BACKUPS)
    print(f"backup {made.name} is in {BACKUPS}/: `python -m infra.servers restore --databases {BACKUPS}` takes it back")
    for name in behind:
        _upgrade(settings, name)


def _is_behind(settings: Settings, name: str) -> bool:
    """Whether a database has an older schema than the installed release uses; one that is empty has not."""
    has = revision_of(settings, name)
    if has is None:
        return False
    schema = _SCHEMAS[name]
    known, newest = _revisions(schema)
    if has not in known:
        raise UserError(
            f"the database {name} has a schema ({has}) that {schema.package} {version(schema.package)} does not know: a newer"
            " release made it; install that one, or restore a backup of before (`restore --databases FOLDER`)"
        )
    return has != newest


def revision_of(settings: Settings, name: str) -> str | None:
    """Return the revision of a database's schema, None if it is empty."""
    import psycopg2

    connection = psycopg2.connect(settings.database(name))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (_SCHEMAS[name].table,))
            if not (cursor.fetchone() or (False,))[0]:
                return None
            cursor.execute(f'SELECT version_num FROM "{_SCHEMAS[name].table}"')
            row = cursor.fetchone()
            return row[0] if row else None
    finally:
        connection.close()


def _revisions(schema: _Schema) -> tuple[set[str], str | None]:
    """Return all revisions that a package knows, and the newest.

    They are read, not imported as by Alembic: Prefect's scripts import Prefect, which then takes its settings from the environment.
    """
    spec = find_spec(schema.package)
    assert spec and spec.submodule_search_locations
    followed = dict[str, set[str]]()
    for script in Path(spec.submodule_search_locations[0], schema.revisions).glob("*.py"):
        values = _assigned(script)
        if revision := values.get("revision"):
            before = values.get("down_revision") or ()
            followed[revision] = {before} if isinstance(before, str) else set(before)
    newest = followed.keys() - set[str]().union(*followed.values())
    return set(followed), next(iter(newest), None)


def _assigned(script: Path) -> dict[str, Any]:
    """Return the names of a module that are set to constants."""
    values = {}
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant | ast.Tuple):  # type: ignore[union-attr]
                values[target.id] = ast.literal_eval(node.value)  # type: ignore[union-attr]
    return values


def _upgrade(settings: Settings, name: str) -> None:
    if name == "prefect":
        _run_prefect(settings)
        return
    from sqlalchemy import create_engine

    engine = create_engine(settings.database(name, "postgresql+psycopg2"))
    try:
        if name == "mlflow":
            from mlflow.store.db.utils import (
                _upgrade_db,
            )  # what `mlflow db upgrade` calls, whose argument `ps` would show

            _upgrade_db(engine)
        else:
            from mlflow.server.auth.db.utils import migrate

            migrate(engine, "head")
    finally:
        engine.dispose()


def _run_prefect(settings: Settings) -> None:
    environment = {
        **os.environ,
        "PREFECT_API_DATABASE_CONNECTION_URL": settings.database("prefect", "postgresql+asyncpg"),
        "PREFECT_HOME": str(PREFECT_HOME.absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "server", "database", "upgrade", "-y"], env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["without a word"]
        raise UserError(f"the upgrade of Prefect's database failed: {said[-1]}; the backup of before is whole")
