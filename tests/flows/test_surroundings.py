"""The flow and the schedule wherever they are started: behind a proxy, in any locale, in a subfolder, with wrong settings."""

from pathlib import Path

import pytest

from flows.server import free_port
from tests.flows.conftest import Api, Project

FLOW, SCHEDULE = ("-m", "flows.pretrain"), ("-m", "infra.schedule")
# Of the output alone: Python does not start from an environment in a path that its locale cannot hold, as the one here.
ASCII = {"PYTHONIOENCODING": "ascii:strict"}


@pytest.mark.slow
def test_behind_a_dead_proxy_in_ascii_in_a_subfolder_and_in_any_shell_the_flow_does_all_its_work(
    project: Project, api: Api, tmp_path: Path
) -> None:
    home = tmp_path / "own"
    api.copy_database(home)
    proxy = f"http://127.0.0.1:{free_port()}"
    surroundings = {"HTTP_PROXY": proxy, "https_proxy": proxy, "SHELL": "/not/there", "PREFECT_API_URL": "", **ASCII}
    (project.root / "docs").mkdir()
    code = "import os, subprocess, urllib.request as u; assert u.proxy_bypass('127.0.0.1'); print('\\u00fc\\u2502')"
    project.break_stage("data_card", f"{code}; Path('reports/card').mkdir(parents=True)")
    done = project.run(*FLOW, PREFECT_HOME=str(home), cwd="docs", **surroundings)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Registered       models:/tiny/1" in done.stdout
    assert "To be|, or not" in done.stdout, "│ is not in ASCII"
    assert (project.root / "data" / "raw").exists()
    assert not any((project.root / "docs").iterdir())


REFUSED = [
    ({"PREFECT_API_URL": "http://127.0.0.1:PORT/api"}, "PREFECT_API_URL = 'http://127.0.0.1:PORT/api': the port must be"),
    ({"PREFECT_API_URL": "127.0.0.1:4200/api"}, "was http://127.0.0.1:4200/api meant?"),
    ({"PREFECT_API_URL": "{root}"}, "what answers there is not Prefect's API; was {root}/api meant?"),
    ({"MLFLOW_TRACKING_URI": "sqlite:mlflow.db"}, "MLFLOW_TRACKING_URI = 'sqlite:mlflow.db': was sqlite:///mlflow.db meant?"),
    ({"PREFECT_HOME": "/dev/null/x"}, "PREFECT_HOME = '/dev/null/x': /dev/null is no folder"),
    ({"ALL_PROXY": "socks://127.0.0.1:1"}, "ALL_PROXY = 'socks://127.0.0.1:1': was socks5://127.0.0.1:1 meant?"),
]  # fmt: skip


@pytest.mark.parametrize("module", [FLOW, SCHEDULE], ids=["flow", "schedule"])
@pytest.mark.parametrize(("environment", "said"), REFUSED)
def test_what_is_wrong_in_the_environment_is_one_line_before_any_work(
    project: Project, api: Api, module: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    project.env.pop("all_proxy", None)  # it would be the one that counts
    root = api.url.removesuffix("/api")  # the server of the tests answers there too, but not as the API does
    (project.root / "prefect.yaml").touch()
    before = {path.name for path in project.root.iterdir()}
    done = project.run(*module, **{name: value.format(root=root) for name, value in environment.items()})
    assert done.returncode == 2, done.stderr
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert said.format(root=root) in error
    assert done.stdout == ""
    assert {path.name for path in project.root.iterdir()} == before


def test_a_setting_that_prefect_cannot_read_is_named(project: Project) -> None:
    done = project.run(*FLOW, PREFECT_LOGGING_LEVEL="LOUD")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: PREFECT_LOGGING_LEVEL = 'LOUD': Input should be 'DEBUG'")
    assert "Traceback" not in done.stderr


def test_a_database_that_prefects_server_cannot_open_is_one_line(project: Project) -> None:
    wrong = "sqlite+aiosqlite:////proc/x/prefect.db"
    done = project.run(*FLOW, PREFECT_API_URL="", PREFECT_SERVER_DATABASE_CONNECTION_URL=wrong)
    assert done.returncode == 2, done.stderr
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: Prefect's server did not start (")
