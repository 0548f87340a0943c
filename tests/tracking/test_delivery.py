"""Journals and the stores that they meet: another one, an emptied one, one that refuses, one that is away."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from gpt.commands.checks import store as checks
from gpt.commands.main import main
from gpt.tracking.delivery import Blocked, deliver, deliver_each, deliver_left_behind
from gpt.tracking.journal import Journal
from gpt.tracking.spool import read_state
from tests import ROOT
from tests.conftest import without_roots_rights
from tests.servers import mlflow_server
from tests.tracking.test_journal import begin, kill, points, run_of, store

__all__ = ["store"]
SPOOL = Path("spool")


def stopped(run: str, steps: int = 3, status: str = "KILLED") -> Path:
    """Write the journal of a run that has ended."""
    journal = begin(run)
    journal.append("tags", values={"fingerprint": f"f-{run}"})
    for step in range(1, steps + 1):
        journal.append_metrics("train", step, {"loss": float(step)})
    journal.append("end", status=status)
    kill(journal)
    return SPOOL / f"{run}.jsonl"


def go_on(run: str, *steps: int) -> bool:
    """Resume a run, train some steps and finish it; return whether everything arrived."""
    journal = Journal(SPOOL, run)
    journal.append("resume")
    journal.start()
    for step in steps:
        journal.append_metrics("train", step, {"loss": float(step)})
    journal.append("end", status="FINISHED")
    return journal.close(60)


def empty_copy(empty_store: Path, folder: Path) -> MlflowClient:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def sync(*, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "gpt", "sync"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def server_that_answers(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that is healthy and answers everything else as it is told."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/health":
                reply(self, 200, "OK")
            else:
                answer(self)

        do_GET = do_POST = do_PATCH = handle_one  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def reply(request: BaseHTTPRequestHandler, status: int, body: str) -> None:
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body.encode())


@pytest.mark.slow
def test_a_run_that_goes_on_at_another_store_is_there_whole_and_the_next_journal_too(
    store: MlflowClient, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(stopped("one"))
    waiting = stopped("two", status="FINISHED")
    ((_, _, told),) = checks.spool()
    assert told.startswith("two: not delivered yet")
    other = empty_copy(empty_store, tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere/mlflow.db")
    assert go_on("one", 4, 5)
    assert points(other, run_of(other, "one"), "loss") == [(step, float(step)) for step in range(1, 6)]
    assert other.get_run(run_of(other, "one")).data.params["train.max_steps"] == "3"
    assert points(other, run_of(other, "two"), "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert not waiting.exists()
    assert points(store, run_of(store, "one"), "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_back_at_the_first_store_the_run_goes_on_in_its_first_run(
    store: MlflowClient, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = stopped("one")
    deliver(journal)
    first = run_of(store, "one")
    empty_copy(empty_store, tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere/mlflow.db")
    again = Journal(SPOOL, "one")
    again.append("resume")
    again.append_metrics("train", 4, {"loss": 4.0})
    kill(again)
    deliver(journal)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert go_on("one", 5)
    assert run_of(store, "one") == first
    assert points(store, first, "loss") == [(step, float(step)) for step in range(1, 6)]


@pytest.mark.parametrize("how", ["emptied", "deleted for good"])
def test_a_run_that_its_store_has_lost_begins_anew_from_its_first_event(
    store: MlflowClient, empty_store: Path, tmp_path: Path, how: str
) -> None:
    deliver(stopped("one"))
    if how == "emptied":
        # Another process's store: this one keeps connections to the file that was there.
        shutil.copyfile(empty_store, tmp_path / "other.db")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/other.db"
        found = MlflowClient(f"sqlite:///{tmp_path}/other.db")
    else:
        run_id = run_of(store, "one")
        with sqlite3.connect(tmp_path / "mlflow.db") as database:  # as `mlflow gc` does
            database.execute("pragma foreign_keys = off")
            for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
                database.execute(f"delete from {table} where run_uuid = ?", (run_id,))
        found = store
    try:
        assert go_on("one", 4)
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    assert points(found, run_of(found, "one"), "loss") == [(step, float(step)) for step in range(1, 5)]
    assert found.get_run(run_of(found, "one")).info.status == "FINISHED"


def test_of_a_deleted_run_what_is_left_is_set_aside_and_arrives_once_it_is_restored(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = begin("one")
    deliver(SPOOL / "one.jsonl")
    run_id = run_of(store, "one")
    journal.append_metrics("train", 1, {"loss": 1.0})
    journal.append("end", status="FINISHED")
    kill(journal)
    store.delete_run(run_id)
    stopped("two", status="FINISHED")
    assert deliver_left_behind(SPOOL) == 1, "the one after it"
    assert deliver_left_behind(SPOOL) == 0, "and it is not asked for again"
    assert main(["sync"]) == 1
    assert f"mlflow runs restore --run-id {run_id}" in capsys.readouterr().out
    ((_, _, told),) = checks.spool()
    assert f"mlflow runs restore --run-id {run_id}" in told
    store.restore_run(run_id)
    assert main(["sync"]) == 0
    assert points(store, run_id, "loss") == [(1, 1.0)]
    assert not list(SPOOL.iterdir())


def test_training_that_goes_on_after_its_run_was_deleted_has_a_new_run(store: MlflowClient) -> None:
    deliver(stopped("one"))
    first = run_of(store, "one")
    store.delete_run(first)
    assert go_on("one", 4)
    assert run_of(store, "one") != first
    assert points(store, run_of(store, "one"), "loss") == [(step, float(step)) for step in range(1, 5)]


def test_a_deleted_experiment_holds_up_its_own_runs_only(store: MlflowClient) -> None:
    gone = store.create_experiment("gone")
    store.delete_experiment(gone)
    journal = Journal(SPOOL, "a")
    journal.append("start", experiment="gone", run="a", fingerprint="f")
    kill(journal)
    stopped("b", status="FINISHED")
    assert deliver_left_behind(SPOOL) == 1
    assert "mlflow experiments restore" in read_state(SPOOL / "a.jsonl").blocked
    store.restore_experiment(gone)
    assert [outcome.kind for outcome in deliver_each(SPOOL, again=True)] == ["delivered"]


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_an_event_that_is_refused_is_set_aside_and_the_rest_arrives(
    store: MlflowClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, asynchronous: str
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", asynchronous)
    journal = begin("one")
    journal.append("params", values={"train.max_steps": "changed"})
    Path("mlartifacts").write_text("where a folder should be")
    journal.append("text", path="samples/a.txt", text="")
    for step in (1, 2, 3):
        journal.append_metrics("train", step, {"loss": float(step)} if step != 2 else {"not a name: \0": 1.0})
    journal.append("end", status="FINISHED")
    journal.start()
    journal.close(60)
    run_id = run_of(store, "one")
    assert points(store, run_id, "loss") == [(1, 1.0), (3, 3.0)]
    assert store.get_run(run_id).info.status == "FINISHED"
    path = SPOOL / "one.jsonl"
    refused = read_state(path).refused
    kinds = [
        json.loads(path.read_bytes()[offset:].split(b"\n")[0])["kind"] for some in refused.values() for offset in some
    ]
    assert sorted(kinds) == ["metrics", "params", "text"]
    assert caplog.text.count("the store refuses") == 3
    assert [outcome.kind for outcome in deliver_each(SPOOL, again=True)] == ["refused"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "metr\n', b"\0\0\0\0\n", b"[]\n", b"7\n", b'"text"\n', b'{"kind": "of a later version"}\n', b"\xff\xfe\n",
        b'{"kind": "metrics", "group": "train", "step": 7}\n', b'{"kind": "tags", "values": 3}\n',
    ],
)  # fmt: skip
def test_a_damaged_line_costs_that_line(store: MlflowClient, line: bytes) -> None:
    journal = begin("one")
    kill(journal)
    path = SPOOL / "one.jsonl"
    path.write_bytes(path.read_bytes() + line)
    assert not go_on("one", 1, 2) or read_state(path).refused
    assert points(store, run_of(store, "one"), "loss") == [(1, 1.0), (2, 2.0)]
    assert sum(map(len, read_state(path).refused.values())) == 1


@pytest.mark.parametrize("state", ["", "{", "[]", '{"run_id": 7, "offset": 3}', '{"run_id": null, "offset": 100000}'])
def test_a_damaged_note_of_how_far_it_came_costs_nothing(store: MlflowClient, state: str) -> None:
    path = stopped("one", status="FINISHED")
    path.with_suffix(".state").write_text(state)
    assert deliver_left_behind(SPOOL) == 1
    assert points(store, run_of(store, "one"), "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_journal_of_an_older_version_goes_on(store: MlflowClient) -> None:
    """Before journals had an id and knew their store."""
    path = stopped("one")
    deliver(path)
    run_id = run_of(store, "one")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del lines[0]["id"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    path.with_suffix(".state").write_text(json.dumps({"run_id": run_id, "offset": path.stat().st_size}))
    assert go_on("one", 4)
    assert points(store, run_id, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_a_journal_without_its_start_is_set_aside(store: MlflowClient) -> None:
    SPOOL.mkdir()
    (SPOOL / "a.jsonl").write_text('{"kind": "end", "status": "FINISHED", "time_ms": 1}\n')
    stopped("b", status="FINISHED")
    assert deliver_left_behind(SPOOL) == 1
    with pytest.raises(Blocked, match="does not begin with the start of a run"):
        deliver(SPOOL / "a.jsonl")


def test_two_projects_of_one_run_name_at_one_server_have_a_run_each(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        deliver(stopped("same", steps=1))
    experiment = store.get_experiment_by_name("e")
    assert experiment is not None
    assert len(store.search_runs([experiment.experiment_id])) == 2


def test_a_copied_projects_run_goes_on_apart_and_a_moved_ones_in_its_run(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "original").mkdir()
    monkeypatch.chdir(tmp_path / "original")
    deliver(stopped("one"))
    first = run_of(store, "one")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert go_on("one", 4)
    assert points(store, first, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    (tmp_path / "original").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert go_on("one", 4, 5)
    assert points(store, first, "loss") == [(step, float(step)) for step in range(1, 6)]


def test_sync_beside_a_live_run_takes_nothing_away_from_it(store: MlflowClient) -> None:
    journal = begin("one")
    journal.start()
    journal.append_metrics("train", 1, {"loss": 1.0})
    during = sync()
    output, errors = during.communicate(timeout=60)
    assert during.returncode == 0, errors
    assert "one trains now" in output
    journal.append_metrics("train", 2, {"loss": 2.0})
    journal.append("end", status="FINISHED")
    assert main(["sync"]) == 0, "between its last event and its end"
    assert journal.close(60)
    assert points(store, run_of(store, "one"), "loss") == [(1, 1.0), (2, 2.0)]
    assert not list(SPOOL.iterdir())


@pytest.mark.slow
def test_two_syncs_at_once_deliver_everything_once(store: MlflowClient) -> None:
    for number in range(5):
        stopped(f"run-{number}", steps=20, status="FINISHED")
    both = [sync(), sync()]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    for number in range(5):
        assert len(points(store, run_of(store, f"run-{number}"), "loss")) == 20
    assert not list(SPOOL.iterdir())


def test_a_run_that_goes_on_while_its_rest_is_delivered_loses_nothing(store: MlflowClient) -> None:
    """The end of a run has arrived; before its journal is removed, a process goes on in it."""
    path = stopped("one", status="FINISHED")
    later = Journal(SPOOL, "one")
    assert deliver_left_behind(SPOOL) == 1
    assert path.exists()
    later.start()
    later.append("resume")
    later.append_metrics("train", 4, {"loss": 4.0})
    later.append("end", status="FINISHED")
    assert later.close(60)
    assert points(store, run_of(store, "one"), "loss")[-1] == (4, 4.0)


@pytest.mark.parametrize(
    ("status", "code", "kept"),
    [
        (400, "INVALID_PARAMETER_VALUE", "refused"),
        (403, "PERMISSION_DENIED", "waiting"),
        (500, "INTERNAL_ERROR", "waiting"),
    ],
)
def test_what_a_server_does_not_take_stays_with_its_reason(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, status: int, code: str, kept: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    path = stopped("one", status="FINISHED")
    body = json.dumps({"error_code": code, "message": "the reason"})
    with server_that_answers(lambda request: reply(request, status, body)) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        (outcome,) = deliver_each(SPOOL)
        assert outcome.kind == kept
        assert ("too many 500" if status == 500 else "the reason") in outcome.reason
        assert main(["sync"]) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert deliver_left_behind(SPOOL) == 1, "another store is asked without a word"
    assert not path.exists()


def test_a_server_that_never_answers_is_given_up(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    for run in ("one", "two"):
        stopped(run, status="FINISHED")
    asked: list[str] = []

    def hang(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        request.rfile.read(1)  # until the client goes

    with server_that_answers(hang) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert deliver_left_behind(SPOOL) == 0
    assert len(list(SPOOL.glob("*.jsonl"))) == 2
    assert all("two" not in record.message for record in caplog.records), "the second one would wait as long"


def test_a_store_that_cannot_be_written_keeps_everything_in_the_spool(store: MlflowClient, tmp_path: Path) -> None:
    path = stopped("one", status="FINISHED")
    before = path.read_bytes()
    (tmp_path / "mlflow.db").chmod(0o444)
    code = "from pathlib import Path; from gpt.tracking.delivery import deliver_each; print(list(deliver_each(Path('spool'))))"
    command = without_roots_rights(sys.executable, "-c", code)
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "waiting" in done.stdout
    assert "readonly database" in done.stdout
    assert path.read_bytes() == before
    (tmp_path / "mlflow.db").chmod(0o644)
    assert deliver_left_behind(SPOOL) == 1


def test_runs_that_are_deleted_stay_deleted_for_those_who_look_at_them(store: MlflowClient) -> None:
    path = stopped("one")
    deliver(path)
    store.delete_run(run_of(store, "one"))
    assert deliver_left_behind(SPOOL) == 0
    experiment = store.get_experiment_by_name("e")
    assert experiment is not None
    assert len(store.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)) == 1


def test_a_run_begun_here_and_resumed_at_a_real_server_is_there_whole(
    store: MlflowClient, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(stopped("one"))
    empty_copy(empty_store, tmp_path / "server")
    with mlflow_server(tmp_path / "server") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        client = MlflowClient(url)
        journal = Journal(SPOOL, "one")
        journal.append("resume")
        journal.start()
        journal.append("params", values={"train.max_steps": "changed"})  # which it refuses
        journal.append_metrics("train", 4, {"loss": 4.0})
        journal.append("text", path="samples/a.txt", text="what it wrote")
        journal.append("end", status="FINISHED")
        assert journal.close(60)
        run_id = run_of(client, "one")
        assert points(client, run_id, "loss") == [(step, float(step)) for step in range(1, 5)]
        assert [file.path for file in client.list_artifacts(run_id, "samples")] == ["samples/a.txt"]
        assert client.get_run(run_id).info.status == "FINISHED"
        assert len(read_state(SPOOL / "one.jsonl").refused) == 1

        deliver(stopped("two"))
        gone = run_of(client, "two")
        client.delete_run(gone)
        more = Journal(SPOOL, "two")
        more.append_metrics("train", 4, {"loss": 4.0})
        kill(more)
        stopped("three", status="FINISHED")
        outcomes = {outcome.run: outcome for outcome in deliver_each(SPOOL)}
        assert outcomes["two"].kind == "refused"
        assert f"mlflow runs restore --run-id {gone}" in outcomes["two"].reason
        assert outcomes["three"].kind == "delivered"


@pytest.mark.slow
def test_deliveries_that_are_killed_leave_every_point_once(store: MlflowClient) -> None:
    stopped("one", steps=5000, status="FINISHED")
    for _ in range(3):
        process = sync()
        before = read_state(SPOOL / "one.jsonl").offset
        while process.poll() is None and read_state(SPOOL / "one.jsonl").offset == before:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    assert main(["sync"]) == 0
    assert len(store.get_metric_history(run_of(store, "one"), "loss")) == 5000
    assert not list(SPOOL.iterdir())
