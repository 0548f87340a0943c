"""What the keeper sees besides runs: each thing told once, when it begins."""

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import yaml
from mlflow import MlflowClient

from flows.upkeep.journals import Run
from flows.upkeep.progress import Progress
from flows.upkeep.watch import Watch
from gpt import paths
from gpt.locks import try_lock
from gpt.registry.trail import PROMOTED, REFUSED, append, audit_trail
from gpt.tracking.journal import Journal
from tests import ROOT
from tests.flows.upkeep.conftest import set_sources


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


def looks(watch: Watch, times: int = 1) -> list[Any]:
    """Look at what takes seconds too, and return the events, which are told."""
    found: list[Any] = []
    for _ in range(times):
        watch._looked = -1000.0
        watch.look()
        assert watch._thread is not None
        watch._thread.join()
        watch.look()
        found += watch.waiting
        watch.were_told()
    return [event for event in found if event.event != "gpt.disk.nearly-full"]


def test_a_disk_is_told_once_until_there_is_room_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 50
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 1000 - free, free))
    watch = Watch()
    told: list[int] = []
    for free in (50, 49, 40, 55, 30, 61, 20):  # noqa: B007 (the lambda reads it)
        told.append(len(list(watch._disks())))
    assert told == [0, 1, 0, 0, 0, 0, 1]


def test_files_of_a_source_that_differ_twice_alike_are_told_once(project: Path) -> None:
    file = project / "notes.txt"
    file.write_text("old")
    pinned = hashlib.sha256(b"old").hexdigest()
    set_sources(project, {"name": "notes", "kind": "local", "path": "notes.txt", "sha256": pinned, "licence": "mine"})
    watch = Watch()
    assert looks(watch, times=3) == []
    file.write_text("new")
    assert looks(watch) == [], "it may still be written"
    (event,) = looks(watch, times=3)
    assert event.event == "gpt.data.changed"
    assert "notes.txt" in event.payload["message"]
    assert looks(Watch(), times=3) == [], "a keeper that is started again remembers"
    file.unlink()
    assert looks(watch, times=3) == [], "missing is not changed"
    file.write_text("newer")
    assert len(looks(watch, times=3)) == 1
    file.write_text("old")
    assert looks(watch, times=3) == []
    file.write_text("newer")
    assert len(looks(watch, times=3)) == 1, "it came again"


def test_what_was_found_before_a_look_failed_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_the_second() -> Any:
        yield "the first"
        raise OSError("away")

    assert Watch()._try("this", fail_at_the_second) == ["the first"]


def test_decisions_are_told_once_whoever_took_them(project: Path) -> None:
    watch = Watch()
    assert looks(watch) == [], "there is no store yet"
    client = MlflowClient()
    name = yaml.safe_load((project / "params.yaml").read_text())["register"]["name"]
    client.create_registered_model(name)
    for _ in range(3):
        client.create_model_version(name, str(project))
    append(client, name, [], PROMOTED, 1, "the first", "somebody")
    assert looks(watch) == [], "decided before we came"
    append(client, name, audit_trail(client, name), REFUSED, 2, "worse than the champion", "somebody")
    append(client, name, audit_trail(client, name), PROMOTED, 3, "better", "somebody")
    refused, promoted = looks(watch)
    assert (refused.event, promoted.event) == ("gpt.model.refused", "gpt.model.promoted")
    assert refused.payload["message"] == f"models:/{name}/2 was refused by somebody: worse than the champion"
    append(client, name, audit_trail(client, name), REFUSED, 2, "no better", "somebody")
    killed, again = Watch(), Watch()
    killed._looked = -1000.0
    killed.look()
    assert killed._thread is not None
    killed._thread.join()
    killed.look()
    assert killed.waiting[-1].id == looks(again)[0].id, "what was not told is found again, and is the same event"
    assert looks(watch)[0].id == killed.waiting[-1].id, "several that watch tell it together once"
    assert looks(watch) == looks(Watch()) == []


def test_a_store_that_hangs_holds_up_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[float] = []

    def hang() -> list[Any]:
        waiting.append(time.monotonic())
        while len(waiting) < 2:
            time.sleep(0.01)
        return []

    watch = Watch()
    monkeypatch.setattr(watch, "_decisions", hang)
    watch.look()
    watch.look()  # returns while it hangs
    assert watch.waiting == []
    wait(lambda: waiting)
    waiting.append(0.0)


def wait(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def row(journal: Journal, step: int, tokens_per_second: float) -> None:
    journal.append_metrics("train", step, {"train/loss": 2.0, "system/tokens_per_second": tokens_per_second})


def test_a_trainer_that_lives_and_takes_no_step_is_told_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "time_ns", lambda: int(now * 1e9))
    journal = Journal(paths.SPOOL, "a-run")
    journal.append("start", experiment="a study", run="a-run", fingerprint="of-a-run")
    row(journal, 10, 1000)
    watch = Watch()
    told: list[str] = []

    def look_after(seconds: float) -> None:
        nonlocal now
        now += seconds
        told.extend(event.payload["message"] for event in watch._training())

    with try_lock(Path("checkpoints/of-a-run/lock")) or pytest.fail("nobody else has it"):
        look_after(500)
        assert told == []
        look_after(120)
        look_after(1000)
        assert told == ["a-run, after step 10: no step for 10 minutes"]
        row(journal, 20, 1000)
        look_after(4800)
        assert len(told) == 1, "it was silent for 27 minutes before, and lived"
        look_after(100)
        assert len(told) == 2
    watch = Watch()
    look_after(10_000)
    assert len(told) == 2, "nobody trains"


def test_a_training_that_became_a_third_slower_is_told_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "time_ns", lambda: int(now * 1e9))
    journal = Journal(paths.SPOOL, "a-run")
    journal.append("start", experiment="a study", run="a-run", fingerprint="of-a-run")
    watch = Watch()
    told: list[tuple[int, str]] = []
    with try_lock(Path("checkpoints/of-a-run/lock")) or pytest.fail("nobody else has it"):
        for step in range(60):
            now += 60
            row(journal, step, 1000 if step < 30 else 500)
            told.extend((step, event.payload["message"]) for event in watch._training())
    assert told == [(32, "a-run, after step 32: 500 tokens per second, a third less than before")]


def test_the_page_of_a_flow_run_shows_how_far_training_is() -> None:
    asked: list[tuple[str, str, dict[str, Any]]] = []

    def request(method: str, path: str, json: dict[str, Any], **_: Any) -> Any:
        asked.append((method, path, json))
        return SimpleNamespace(raise_for_status=lambda: SimpleNamespace(json=lambda: {"id": "an-artifact"}))

    run = Run("a-run", settings={"train.max_steps": 400}, steps={"train": 100}, rows={"train": {"train/loss": 2.5}})
    progress, flow_run, client = Progress(), SimpleNamespace(id="a-flow-run"), SimpleNamespace(request=request)
    progress.show(client, [flow_run], [run])
    progress.show(client, [flow_run], [run])
    run.steps["train"] = 200
    progress.show(client, [flow_run], [run])
    assert [(method, json["data"]) for method, _, json in asked] == [("POST", 25.0), ("PATCH", 50.0)]
    assert asked[0][2]["description"] == "step 100 of 400, loss 2.5000"
    assert asked[0][2]["flow_run_id"] == "a-flow-run"
