"""What happens is told through any URL of Apprise's, and new data start a run: on Prefect's own server, worker and keeper."""

import hashlib
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.upkeep.automations import NOTICES
from tests.flows.conftest import REPOSITORY, Api, Project
from tests.flows.test_schedule import address, state_of, trigger
from tests.flows.upkeep.conftest import Receiver, set_sources

WaitFor = Callable[..., Any]


def use_local_source(project: Project) -> Path:
    """Let the project learn from a file of its own."""
    file = project.root / "notes.txt"
    file.write_text("To be, or not to be.\n" * 100)
    pinned = hashlib.sha256(file.read_bytes()).hexdigest()
    set_sources(
        project.root, {"name": "notes", "kind": "local", "path": "notes.txt", "sha256": pinned, "licence": "mine"}
    )
    return file


@pytest.mark.long
def test_a_failure_is_told_and_new_data_start_a_run(
    project: Project, api: Api, tmp_path: Path, wait_for: WaitFor, receiver: Receiver
) -> None:
    home = tmp_path / "own"
    api.copy_database(home)
    shutil.copy(REPOSITORY / "prefect.yaml", project.root)
    shutil.copytree(REPOSITORY / "flows", project.root / "flows")
    source = use_local_source(project)
    project.env |= {
        "PREFECT_API_URL": "",
        "PREFECT_HOME": str(home),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "GPT_NOTIFY": receiver.url,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'none.db'}",
    }
    schedule = project.start("-m", "infra.schedule")
    try:
        server = Api(address(schedule), home)
        project.break_stage("fetch", 'print("error: the disk is full", file=sys.stderr); sys.exit(2)')
        run = trigger(project, server.url)
        wait_for(lambda: state_of(server.url, run) == "FAILED", seconds=120)
        wait_for(lambda: receiver.told("the disk is full"), seconds=60)
        (told,) = receiver.received
        assert told["title"].startswith(
            f"gpt: {yaml.safe_load((project.root / 'params.yaml').read_text())['base']['name']}"
        )

        (project.root / "fetch.broken").unlink()
        source.write_text("That is the question.\n" * 100)

        def on_change() -> list[dict[str, Any]]:
            found = server.post("flow_runs/filter", {"deployments": {"name": {"any_": ["on-change"]}}})
            return [each for each in found if each["state_type"] == "COMPLETED"]

        wait_for(on_change, seconds=240)
        assert (project.root / "accepted").exists()
        assert len(on_change()) == 1

        automations = server.post("automations/filter", {"limit": 50})
        assert {each["name"] for each in automations} >= {f"gpt: {notice.name}" for notice in NOTICES}
        deployed = project.run("-m", "flows.deploy", PREFECT_API_URL=server.url)
        assert deployed.returncode == 0, deployed.stderr
        again = server.post("automations/filter", {"limit": 50})
        assert {each["id"] for each in again} == {each["id"] for each in automations}, (
            "applied again, nothing is doubled"
        )
    finally:
        schedule.send_signal(signal.SIGINT)
        output, errors = schedule.communicate(timeout=90)
    assert "s3cret-token" not in output + errors
    with sqlite3.connect(home / "prefect.db") as database:
        assert "s3cret-token" not in "\n".join(database.iterdump())


@pytest.mark.parametrize("urls", ["nonsense", "s3cret://", "slack://"])
def test_a_url_that_apprise_does_not_know_is_one_error_that_does_not_show_it(project: Project, urls: str) -> None:
    shutil.copy(REPOSITORY / "prefect.yaml", project.root)
    done = project.run("-m", "flows.deploy", GPT_NOTIFY=urls)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: GPT_NOTIFY: not a URL that Apprise understands")
    assert urls == "slack://" or urls not in line
