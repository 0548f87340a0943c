"""Backup, destroy everything, restore in a fresh clone: the champion loads and is made again byte for byte, flow runs are there.

The run before it has secrets in its environment, and none of them is kept anywhere.
"""

import base64
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from infra.servers import postgres
from infra.servers.place import DATABASES, Settings, make_settings
from infra.servers.snapshots import Store
from tests.e2e.conftest import Project, environment_of
from tests.flows.conftest import Api
from tests.infra.conftest import choose_ports, processes_of, settings_of
from tests.living import command_of

_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HF_TOKEN")


def plant(project: Project) -> dict[str, str]:
    """Put a secret into each of some variables, which servers and runs inherit; return them, and one for an address."""
    planted = {name: f"{secrets.token_hex(8)}Q7{secrets.token_hex(8)}" for name in ("uri", *_VARIABLES)}
    planted["AWS_ACCESS_KEY_ID"] = "AKIA" + secrets.token_hex(8).upper()
    project.environment.update({name: value for name, value in planted.items() if name != "uri"})
    return planted


def check_nothing_kept(project: Project, planted: dict[str, str], output: str) -> None:
    """No planted secret and no password of the servers is in databases, logs, artifacts, pages, caches, arguments, or was said."""
    settings = settings_of(project)
    all_secrets = planted | {"postgres": settings.postgres_password, "supervisor": settings.supervisor_password}
    forms = {
        name: [secret.encode(), *(base64.b64encode(f"{' ' * shift}{secret}".encode())[4:-4] for shift in range(3))]
        for name, secret in all_secrets.items()
    }
    places = {str(path): path.read_bytes() for path in project.folder.parent.rglob("*") if is_searched(path)}
    for name in DATABASES:
        command = [postgres.binaries() / "pg_dump", "--dbname", settings.database(name)]
        places[f"database {name}"] = subprocess.run(command, capture_output=True, check=True).stdout
    places |= {f"arguments of {process.pid}": command_of(process).encode() for process in processes_of(project)}
    places["output"] = output.encode()
    assert b"shakespeare-gpt" in places["database mlflow"]
    assert b"pretrain" in places["database prefect"]
    assert any("artifacts" in place for place in places)
    assert any(place.endswith("prefect.log") for place in places)
    found = {
        (place, name) for place, data in places.items() for name in forms if any(form in data for form in forms[name])
    }
    assert found == set()


def is_searched(path: Path) -> bool:
    """All files but those of the servers that are there for passwords, and PostgreSQL's, which are searched as dumps."""
    own = ("settings.json", "supervisord.conf", "environment")
    is_own = path.parent.name == "servers" and path.name in own
    return path.is_file() and not is_own and "servers/postgres/" not in path.as_posix()


def use_servers(project: Project) -> None:
    """Let the commands of a project use its servers."""
    project.environment.update(settings_of(project).environment())


@contextmanager
def registering(project: Project) -> Iterator[None]:
    """Register one version after the other in the meantime, each with a file of its own, as runs do that train."""
    client, done = MlflowClient(settings_of(project).mlflow), threading.Event()
    client.create_registered_model("busy")
    experiment = client.create_experiment("busy")

    def work() -> None:
        while not done.is_set():
            run = client.create_run(experiment).info
            client.log_text(run.run_id, run.run_id, "made/of.txt")
            client.create_model_version("busy", f"{run.artifact_uri}/made", run.run_id)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()


@pytest.mark.long
def test_all_comes_back_in_a_fresh_clone_and_no_secret_with_it(project: Project, tmp_path: Path) -> None:
    project.change(register={"gate": {"max_bits_per_byte": 8.0, "automatic": True}})
    planted = plant(project)
    choose_ports(project)
    outputs = [project.run("infra.servers", "up")]
    use_servers(project)
    address = project.environment["MLFLOW_TRACKING_URI"]
    project.environment["MLFLOW_TRACKING_URI"] = address.replace("://", f"://me:{planted['uri']}@")
    outputs += [
        project.run("flows.pretrain"),
        project.run("gpt", "promote"),
        project.run("gpt", "lineage", "@champion"),
    ]
    check_nothing_kept(project, planted, "\n".join(outputs))
    project.git("add", "-A")
    project.git("-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-qm", "trained")
    kept, origin = tmp_path / "kept", tmp_path / "origin.git"
    subprocess.run(["git", "clone", "-q", "--bare", project.folder, origin], check=True)
    said = project.run("gpt", "generate", "to be", "--model", "models:/shakespeare-gpt@champion", "--seed", "7")
    flow_runs = names_of_flow_runs(project)
    assert flow_runs

    project.run("infra.servers", "backup", str(kept))
    with registering(project):
        for _ in range(2):
            project.run("infra.servers", "backup", str(kept))
        output = project.run("infra.servers", "backup", str(kept), "--keep", "2")
    assert len(Store(kept).names()) == 2
    passwords = {settings_of(project).postgres_password, settings_of(project).supervisor_password}
    held = [path.read_bytes() for path in kept.rglob("*") if path.is_file()]
    assert not any(password.encode() in content for password in passwords for content in held)
    total, new = map(float, re.findall(r"([0-9.]+) MB", output))
    assert new < total / 2, output
    project.run("infra.servers", "down")

    for path in (project.folder, tmp_path / "cache", tmp_path / "dvc-site", tmp_path / "text.jsonl"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    subprocess.run(["git", "clone", "-q", origin, tmp_path / "clone ü"], check=True)
    clone = Project(tmp_path / "clone ü", environment_of(tmp_path / "clone ü", tmp_path / "prefect"))
    clone.environment.pop("PREFECT_HOME")
    try:
        clone.run("infra.servers", "restore", str(kept))
        assert settings_of(clone).postgres_password not in passwords
        clone.run("infra.servers", "up")
        use_servers(clone)
        again = clone.run("gpt", "generate", "to be", "--model", "models:/shakespeare-gpt@champion", "--seed", "7")
        assert again == said
        clone.run("dvc", "checkout")
        assert "identical" in clone.run("gpt", "reproduce", "models:/shakespeare-gpt@champion")
        assert flow_runs <= names_of_flow_runs(clone)
        check_all_versions(settings_of(clone).mlflow, tmp_path / "found")
        assert "the servers run" in clone.run("infra.servers", "restore", str(kept), exit_code=2)
        clone.run("infra.servers", "down")
        assert "exists; nothing was restored" in clone.run("infra.servers", "restore", str(kept), exit_code=2)
    finally:
        clone.run("infra.servers", "down")
        subprocess.run(["git", "clone", "-q", origin, project.folder], check=True)  # whose servers are down, in the end
    assert processes_of(clone) == []


def names_of_flow_runs(project: Project) -> set[str]:
    """The flow runs that have ended, with their states."""
    found = Api(settings_of(project).prefect, Path()).post("flow_runs/filter", {"limit": 100})
    return {f"{run['name']} {run['state_type']}" for run in found if run["state_type"] == "COMPLETED"}


def check_all_versions(address: str, target: Path) -> None:
    """Whatever the database names is there."""
    client = MlflowClient(address)
    versions = client.search_model_versions("name = 'busy'", max_results=1000)
    assert len(versions) > 2
    for version in versions:
        target.mkdir(exist_ok=True)
        path = Path(client.download_artifacts(version.run_id or "", "made/of.txt", str(target)))
        assert path.read_text() == version.run_id


def query(settings: Settings, text: str) -> list[tuple[Any, ...]]:
    """Run a statement of SQL in MLflow's database; return its rows, if it has any."""
    import psycopg2

    connection = psycopg2.connect(settings.database("mlflow"))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_database_artifacts_cache_and_remotes_come_back_or_nothing_does(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    kept, remote = tmp_path / "kept", tmp_path / "remote"
    project.run("dvc", "remote", "add", "storage", str(remote))
    names = {
        Path("servers/artifacts/1/models/m-1/artifacts/a ü"): b"model",
        Path(".dvc/cache/files/md5/aa", "b" * 30): b"cached",
        Path(".dvc/cache/runs/aa/aabb/ccdd"): b"stage: 1",
        Path("checkpoints/f00/step_00000001/model.safetensors"): b"saved",
    }
    in_remote = Path("files/md5/cc", "d" * 30)
    for path, content in {**names, remote / in_remote: b"pushed"}.items():
        write(path, content)
    write(Path(".dvc/cache/files/md5/aa/half.tmp"), b"half")
    settings = make_settings(None)
    with postgres.serving(settings):
        query(settings, "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('here')")
    project.run("infra.servers", "backup", str(kept), "--checkpoints")

    for folder in ("servers", ".dvc/cache", "checkpoints", str(remote)):
        shutil.rmtree(folder)
    objects = [path for path in (kept / "objects").glob("??/*") if path.read_bytes() == b"cached"]
    objects[0].chmod(0o600)
    objects[0].write_bytes(b"Cached")
    output = project.run("infra.servers", "restore", str(kept), exit_code=2)
    assert f"cache/files/md5/aa/{'b' * 30} is damaged; nothing was restored" in output
    assert not Path("servers").exists()
    objects[0].write_bytes(b"cached")

    Path("servers").mkdir()
    write(Path("servers/artifacts/left"), b"half")
    Path("servers/.restoring").touch()  # of one that was killed
    project.run("infra.servers", "restore", str(kept))
    assert {path: path.read_bytes() for path in names} == names
    assert Path(".dvc/cache", in_remote).read_bytes() == b"pushed"
    assert not Path("servers/artifacts/left").exists()
    assert not Path(".dvc/cache/files/md5/aa/half.tmp").exists()
    settings = settings_of(project)
    with postgres.serving(settings):
        assert query(settings, "SELECT word FROM kept") == [("here",)]
        query(settings, "INSERT INTO kept VALUES ('later')")
    assert "exists; nothing was restored" in project.run("infra.servers", "restore", str(kept), exit_code=2)
    project.run("infra.servers", "restore", str(kept), "--replace")
    assert Path("servers.replaced/settings.json").exists()
    settings = settings_of(project)
    with postgres.serving(settings):
        assert query(settings, "SELECT word FROM kept") == [("here",)]


def test_mistakes_are_one_error_and_change_nothing(project: Project, tmp_path: Path) -> None:
    run = project.run
    assert "no servers were ever started here" in run("infra.servers", "backup", str(tmp_path / "kept"), exit_code=2)
    assert not (tmp_path / "kept").exists()
    assert "no backup is here" in run("infra.servers", "restore", str(tmp_path / "kept"), exit_code=2)
    (project.folder / "servers").mkdir()
    (project.folder / "servers/.restoring").touch()
    assert "a restore was cut off" in run("infra.servers", "up", exit_code=2)
    (project.folder / "servers/.restoring").unlink()
    (project.folder / "servers/postgres").mkdir()
    (project.folder / "servers/postgres/PG_VERSION").write_text("9\n")
    assert "made by PostgreSQL 9, 1" in run("infra.servers", "up", exit_code=2)
    shutil.rmtree(project.folder / "servers")
