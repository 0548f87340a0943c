"""Databases that the releases before the lock's made: `make up` upgrades them after a backup, and what was there is there."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.server import free_port, is_healthy
from infra.servers import postgres
from infra.servers.place import Settings
from infra.servers.schemas import revision_of
from tests import ROOT
from tests.e2e.conftest import Project
from tests.flows.conftest import Api
from tests.infra.conftest import choose_ports, processes_of, settings_of, wait_for

# The newest of the minor releases before those of the lock.
OLD = ("mlflow==3.16.1", "mlflow-skinny==3.16.1", "mlflow-tracing==3.16.1", "prefect==3.7.8")
_FILL_MLFLOW = """
import mlflow, os
client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
run = client.create_run(client.create_experiment("before", "file:///nowhere")).info.run_id
client.log_metric(run, "loss", 2.5, step=3)
client.create_registered_model("kept")
version = client.create_model_version("kept", "file:///nowhere/model", run)
client.set_registered_model_alias("kept", "champion", version.version)
print(mlflow.__version__)
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the old releases of both, and everything else from ours."""
    folder = tmp_path_factory.mktemp("old") / "environment"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin/python"
    install = [*uv, "pip", "install", "--quiet", "--no-deps", "--python", python, *OLD]
    if subprocess.run(install, timeout=300).returncode != 0:
        pytest.skip("the old releases cannot be had from a registry")
    return python


@contextmanager
def prefect_server(python: Path, environment: dict[str, str]) -> Iterator[Api]:
    """A Prefect server of an environment, on a database of PostgreSQL."""
    port = free_port()
    command = [python, "-m", "prefect", "--no-prompt", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: is_healthy(f"http://127.0.0.1:{port}/api"))
        yield Api(f"http://127.0.0.1:{port}/api", Path())
    finally:
        server.terminate()
        server.wait()


def make_old_databases(settings: Settings, python: Path, folder: Path) -> dict[str, str | None]:
    """Let the old releases make both databases and put something there; return the revisions of their schemas."""
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": settings.database("mlflow", "postgresql+psycopg2"),
        "PREFECT_API_DATABASE_CONNECTION_URL": settings.database("prefect", "postgresql+asyncpg"),
        "PREFECT_HOME": str(folder / "old prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    for name in ("PYTHONPATH", "PREFECT_API_URL"):
        environment.pop(name, None)
    with postgres.serving(settings):
        said = subprocess.run(
            [python, "-c", _FILL_MLFLOW], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert said.stdout.strip() == OLD[0].partition("==")[2]
        with prefect_server(python, environment) as api:
            flow = api.post("flows/", {"name": "before"})
            api.post("flow_runs/", {"flow_id": flow["id"], "name": "kept", "state": {"type": "COMPLETED"}})
        return {name: revision_of(settings, name) for name in ("mlflow", "prefect")}


_REVISIONS = """
import sys
from importlib.util import find_spec
from pathlib import Path
from infra.servers import schemas

found = {name: schemas._revisions(schema) for name, schema in schemas._SCHEMAS.items()}
assert not {"mlflow", "prefect"} & set(sys.modules), "they would have taken their settings too early"
from alembic.script import ScriptDirectory
for name, schema in schemas._SCHEMAS.items():
    folder = Path(find_spec(schema.package).submodule_search_locations[0], schema.revisions)
    scripts = ScriptDirectory(str(folder.parent), version_locations=[str(folder)])
    assert found[name] == ({script.revision for script in scripts.walk_revisions()}, scripts.get_current_head()), name
print(len(found))
"""


def test_revisions_are_those_that_alembic_finds_and_nothing_is_imported_for_them() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _REVISIONS], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


@pytest.mark.long
def test_databases_of_the_releases_before_are_upgraded_with_all_they_hold(
    project: Project, old_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    choose_ports(project)
    settings = settings_of(project)
    before = make_old_databases(settings, old_python, project.folder.parent)

    output = project.run("infra.servers", "up")
    assert "upgrading the schema of mlflow and prefect, after a backup of the databases" in output
    after = {name: revision_of(settings, name) for name in before}
    assert all(after[name] != before[name] for name in before), "else this test would show nothing"
    client = MlflowClient(settings.mlflow)
    champion = client.get_model_version_by_alias("kept", "champion")
    assert client.get_run(champion.run_id or "").data.metrics == {"loss": 2.5}
    runs = Api(settings.prefect, Path()).post("flow_runs/filter", {})
    assert [run["state_type"] for run in runs if run["name"] == "kept"] == ["COMPLETED"]
    project.run("infra.servers", "down")

    project.run("infra.servers", "restore", "--databases", "servers/backups")
    with postgres.serving(settings):
        assert {name: revision_of(settings, name) for name in before} == before
    assert "upgrading the schema" in project.run("infra.servers", "up")
    assert "upgrading" not in project.run("infra.servers", "up")
    project.run("infra.servers", "down")

    with postgres.serving(settings):
        set_revision(settings, "ffffffffffff")
    assert "a newer release made it" in project.run("infra.servers", "up", exit_code=2)
    assert processes_of(project) == []
    with postgres.serving(settings):
        assert revision_of(settings, "mlflow") == "ffffffffffff"


def set_revision(settings: Settings, revision: str) -> None:
    import psycopg2

    connection = psycopg2.connect(settings.database("mlflow"))
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE alembic_version SET version_num = %s", (revision,))
    connection.close()
