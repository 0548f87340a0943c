"""A project with servers of its own, as `make up` starts them."""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.server import free_port
from infra.servers.place import Settings
from infra.servers.supervision import states
from tests.e2e.conftest import Project, build_project
from tests.living import command_of, is_alive

PATIENCE_SECONDS = 120


@pytest.fixture
def project(tmp_path: Path, empty_store: Path) -> Iterator[Project]:
    """A project whose servers are down in the end, however a test ends."""
    project = build_project(tmp_path, tmp_path / "prefect", empty_store, 'team\'s %h ; "project", ü')
    project.environment.pop("PREFECT_HOME")
    yield project
    project.run("infra.servers", "down")
    assert processes_of(project) == []


def processes_of(project: Project) -> list[psutil.Process]:
    """All that belong to the servers: they name the folder or carry it in their variables."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = process.environ().get("PYTHONPATH") == str(project.folder) or str(project.folder) in command_of(
                process
            )
        except psutil.Error:
            continue
        if inside and is_alive(process) and process.pid != os.getpid():
            found.append(process)
    return found


def choose_ports(project: Project) -> None:
    """Let the servers have ports that nobody prefers: on those that people know, others' may start at the same moment."""
    place = project.folder / "servers"
    place.mkdir()
    ports = {f"{name}_port": free_port() for name in ("postgres", "mlflow", "prefect", "supervisor", "metrics")}
    passwords = {f"{name}_password": secrets.token_urlsafe(24) for name in ("postgres", "supervisor")}
    (place / "settings.json").write_text(json.dumps(ports | passwords))
    (place / "settings.json").chmod(0o600)


def settings_of(project: Project) -> Settings:
    return Settings(**json.loads((project.folder / "servers/settings.json").read_text()))


def server_of(project: Project, name: str) -> psutil.Process:
    """The process of a server: the one that its supervisor has started, or that one's child which does the work."""
    process = psutil.Process(states(settings_of(project))[name]["pid"])
    return process if name == "postgres" else process.children()[0]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
