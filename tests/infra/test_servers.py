"""`make up` for real: PostgreSQL, MLflow, Prefect, a worker and metrics, killed one by one and all at once."""

import json
import socket
import xmlrpc.client
from pathlib import Path

import psutil
import pytest

from flows.server import free_port
from infra.servers.place import Settings, load_settings, make_settings
from tests.e2e.conftest import Project
from tests.flows.conftest import Api
from tests.infra.conftest import choose_ports, processes_of, server_of, settings_of, wait_for
from tests.infra.test_monitoring import get, read, value
from tests.living import is_alive

NAMES = ("postgres", "mlflow", "prefect", "worker", "metrics")


def all_run(project: Project) -> bool:
    process = project.start("infra.servers", "status")
    process.communicate()
    return process.returncode == 0


def mlflow_of(settings: Settings) -> Api:
    return Api(f"{settings.mlflow}/api/2.0/mlflow", Path())


def what_is_kept(project: Project) -> tuple[list[str], list[str]]:
    """The names of MLflow's experiments and of Prefect's deployments."""
    settings = settings_of(project)
    found = mlflow_of(settings).post("experiments/search", {"max_results": 100})
    deployments = Api(settings.prefect, Path()).post("deployments/filter", {})
    return sorted(each["name"] for each in found["experiments"]), sorted(each["name"] for each in deployments)


@pytest.mark.slow
def test_servers_come_back_when_killed_and_find_everything(project: Project) -> None:
    choose_ports(project)
    output = project.run("infra.servers", "up")
    settings = settings_of(project)
    assert all(address in output for address in (settings.mlflow, settings.prefect.removesuffix("/api")))
    mlflow_of(settings).post("experiments/create", {"name": "kept"})
    mlflow_of(settings).post("runs/search", {"experiment_ids": ["0"]})  # it reads its accounts for it, if any are named
    prefect = Api(settings.prefect, Path())
    wait_for(lambda: prefect.post("flow_runs/count", {"flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}}}) > 0)
    kept = what_is_kept(project)
    assert kept == (["Default", "kept"], ["by-hand"] * 3 + ["nightly", "on-change", "weekly", "weekly"])
    pids = {name: server_of(project, name).pid for name in NAMES}

    project.run("infra.servers", "up")
    assert {name: server_of(project, name).pid for name in NAMES} == pids, "what runs stays as it is"

    for name in NAMES:
        below = server_of(project, name).children(recursive=True)
        server_of(project, name).kill()
        wait_for(lambda: all_run(project))  # the supervisor has started it again
        assert not any(is_alive(process) for process in below)
    assert what_is_kept(project) == kept

    told = read(get(settings.metrics))
    assert {value(told, "gpt_server_up", server=name) for name in ("mlflow", "prefect")} == {1}
    supervisor = xmlrpc.client.ServerProxy(settings.supervisor).supervisor
    supervisor.stopProcess("metrics")
    supervisor.removeProcessGroup("metrics")  # as one of a release that had no metrics
    pid = server_of(project, "mlflow").pid
    assert "metrics    missing" in project.run("infra.servers", "status", exit_code=1)
    project.run("infra.servers", "up")
    assert server_of(project, "metrics").pid
    assert server_of(project, "mlflow").pid == pid, "what runs stays as it is"

    psutil.Process(int((project.folder / "servers/supervisord.pid").read_text())).kill()
    wait_for(lambda: processes_of(project) == [])
    project.run("infra.servers", "up")
    for process in processes_of(project):
        process.kill()
    assert "nothing runs" in project.run("infra.servers", "status", exit_code=1)
    project.run("infra.servers", "up")
    assert what_is_kept(project) == kept
    project.run("infra.servers", "down")
    assert processes_of(project) == []
    assert "nothing runs" in project.run("infra.servers", "down")


def test_a_port_that_another_program_has_is_one_error_and_nothing_starts(project: Project) -> None:
    place = project.folder / "servers"
    place.mkdir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = {name: free_port() for name in ("postgres_port", "mlflow_port", "supervisor_port")}
        values = ports | {"prefect_port": taken, "postgres_password": "a", "supervisor_password": "b"}
        (place / "settings.json").write_text(json.dumps(values))
        output = project.run("infra.servers", "up", exit_code=2)
    assert f"port {taken} of 127.0.0.1, which servers/settings.json names for prefect, is taken" in output
    assert processes_of(project) == []


def test_settings_that_cannot_be_understood_are_one_error(project: Project) -> None:
    (project.folder / "servers").mkdir()
    settings = project.folder / "servers" / "settings.json"
    ports = {f"{name}_port": 70000 for name in ("postgres", "mlflow", "prefect", "supervisor")}
    no_port = json.dumps(ports | {"postgres_password": "a", "supervisor_password": "b"})
    for text in ("", "{", "[]", '{"postgres_port": "five"}', no_port):
        settings.write_text(text)
        for command in ("up", "down", "status"):
            output = project.run("infra.servers", command, exit_code=2)
            assert output.startswith("error: servers/settings.json: cannot be understood"), output
            assert "Traceback" not in output
    settings.unlink()


@pytest.mark.parametrize("arguments", [("nonsense",), ("up", "extra"), ("status", "--x")])
def test_a_mistyped_command_is_one_error(project: Project, arguments: tuple[str, ...]) -> None:
    output = project.run("infra.servers", *arguments, exit_code=2)
    assert len(output.splitlines()) == 1, output
    assert output.startswith("error: ")


def test_settings_of_an_earlier_release_keep_what_they_have_and_get_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_settings(None)
    assert make_settings(load_settings()) == made
    values = json.loads(Path("servers/settings.json").read_text())
    del values["metrics_port"]
    values["prefect_port"] = 9400  # where the new one would like to be
    Path("servers/settings.json").write_text(json.dumps(values))
    assert load_settings() == Settings(**values, metrics_port=0)
    completed = make_settings(load_settings())
    assert completed == Settings(**values, metrics_port=completed.metrics_port)
    assert completed.metrics_port not in (0, *values.values())
    assert load_settings() == completed
