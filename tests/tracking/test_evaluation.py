"""`gpt evaluate` and `gpt report` tell the run that made the model: found by models/run.json, told once, never in their way."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from flows.server import free_port
from gpt import paths
from gpt.commands.main import main
from gpt.files import read_json, write_json
from gpt.params.project import load_params
from gpt.tracking import evaluation
from gpt.tracking.journal import Journal
from gpt.tracking.pages.markdown import OURS
from tests.evaluation.benchmarks.made_up import make_items, write_items
from tests.registry.conftest import change_params
from tests.servers import start_mlflow
from tests.tracking.test_delivery import reply, server_that_answers

NOTE = "mlflow.note.content"
FINGERPRINT = "run-5-0"
"Of the model of the fixture `project`, in its models/run.json."


def train(run: str = "a", fingerprint: str = FINGERPRINT, *, deliver: bool = True) -> None:
    """Leave what a training leaves: its run in MLflow or, if the server was away, its journal."""
    journal = Journal(paths.SPOOL, run)
    journal.append("start", experiment=load_params().base.name, run=run, fingerprint=fingerprint)
    journal.append("params", values={"train.max_steps": 5})
    journal.append("tags", values={"fingerprint": fingerprint})
    journal.append("end", status="FINISHED")
    if deliver:
        journal.start()
        assert journal.close(60)
    else:
        journal.close(0)


@pytest.fixture(autouse=True)
def curves(project: Path) -> None:
    """The curves that the report draws."""
    for path, column in ((paths.TRAINING_PLOT, "train_loss"), (paths.VALIDATION_PLOT, "validation_loss")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"step,{column}\n2,5.5\n4,5.4\n", encoding="utf-8")


def runs(uri: str | None = None) -> list[Run]:
    client = MlflowClient(uri or f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = client.get_experiment_by_name(load_params().base.name)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def the_run(uri: str | None = None) -> Run:
    (run,) = runs(uri)
    return run


def history(key: str) -> list[tuple[int, float]]:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    return [(point.step, point.value) for point in client.get_metric_history(the_run().info.run_id, key)]


def artifact(path: str) -> bytes:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    return Path(client.download_artifacts(the_run().info.run_id, path)).read_bytes()


def measured() -> dict[str, Any]:
    return read_json(paths.EVALUATION, "")


def run(capfd: pytest.CaptureFixture[str], *command: str) -> str:
    """Run a command that must do its work; return what it said about MLflow."""
    capfd.readouterr()
    assert main(list(command)) == 0
    return "\n".join(line for line in capfd.readouterr().out.splitlines() if line.startswith("MLflow:"))


@contextmanager
def away() -> Iterator[None]:
    """The tracking server does not answer."""
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{free_port()}"
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]


def check_told() -> None:
    told = the_run()
    assert told.info.status == "FINISHED"
    assert told.data.metrics["test_bits_per_byte"] == measured()["test"]["bits_per_byte"]
    assert not list(paths.SPOOL.iterdir())


def test_figures_description_and_files_are_with_the_run_of_the_model(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train()
    train("another", "of-another-model")
    before = runs()
    said = run(capfd, "evaluate")
    (own,) = [one for one in runs() if one.data.tags["fingerprint"] == FINGERPRINT]
    (other,) = [one for one in runs() if one.data.tags["fingerprint"] != FINGERPRINT]
    assert said == f"MLflow: added to run {own.info.run_id}"
    figures = measured()
    assert own.data.metrics["test_loss"] == figures["test"]["loss"]
    assert own.data.metrics["validation_bits_per_byte"] == figures["validation"]["bits_per_byte"]
    shown = [line.split()[:2] for line in own.data.tags[NOTE].splitlines()]
    assert ["test", f"{figures['test']['bits_per_byte']:.4f}"] in shown
    assert load_params().evaluate.prompts[0] in own.data.tags[NOTE]
    assert other.data.metrics == {} and NOTE not in other.data.tags
    ended = {one.info.run_id: one.info.end_time for one in before}
    assert own.info.end_time == ended[own.info.run_id], "training ended when it ended"
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    for name, path in (("evaluate.json", paths.EVALUATION), ("samples.json", paths.SAMPLES)):
        downloaded = Path(client.download_artifacts(own.info.run_id, f"evaluation/{name}"))
        assert read_json(downloaded, "") == read_json(path, "")


def test_measured_again_they_are_there_once_and_a_persons_words_stay(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train()
    run(capfd, "evaluate")
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    written = the_run().data.tags[NOTE]
    client.set_tag(the_run().info.run_id, NOTE, f"My favourite.\n\n{written}")
    run(capfd, "evaluate")
    assert history("test_bits_per_byte") == [(0, measured()["test"]["bits_per_byte"])]
    note = the_run().data.tags[NOTE]
    assert note == f"My favourite.\n\n{written}" and note.count(OURS) == 1
    check_told()


def test_a_server_that_is_away_costs_a_warning_and_sync_delivers(
    project: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    train()
    with away():
        assert run(capfd, "evaluate") == ""
        assert run(capfd, "report") == ""
    assert caplog.text.count("waits for `gpt sync`") == 2 and "cannot be reached" in caplog.text
    assert "test_bits_per_byte" not in the_run().data.metrics
    (journal,) = paths.SPOOL.glob("*.jsonl")
    assert main(["sync"]) == 0
    check_told()
    assert not journal.exists()
    assert artifact("evaluation/training.png") == (paths.REPORTS / "training.png").read_bytes()


def test_the_run_itself_and_what_is_added_to_it_arrive_in_this_order(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with away():
        train(deliver=False)
        run(capfd, "evaluate")
    assert len(list(paths.SPOOL.glob("*.jsonl"))) == 2
    assert main(["sync"]) == 0
    check_told()


def test_the_next_command_delivers_what_the_last_one_could_not(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with away():
        train(deliver=False)
        run(capfd, "evaluate")
    assert run(capfd, "report") == f"MLflow: added to run {the_run().info.run_id}"
    check_told()


def test_a_server_that_fails_keeps_no_command_from_its_end(
    project: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server_that_answers(lambda request: reply(request, 500, "{}")) as uri, monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        assert run(capfd, "evaluate") == ""
    assert "tracking server: MlflowException: " in caplog.text and "waits for `gpt sync`" in caplog.text
    assert main(["sync"]) == 0
    check_told()


def test_a_server_that_never_answers_is_left_behind(
    project: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train()
    end = Event()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(evaluation, "_SECONDS", 0.5)

    def hang(request: BaseHTTPRequestHandler) -> None:
        end.wait(60)
        reply(request, 500, "{}")

    with server_that_answers(hang) as uri, monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        assert run(capfd, "evaluate") == ""
        assert "the tracking server is slow" in caplog.text
        end.set()
        for thread in threading.enumerate():
            if thread.name == evaluation.FOLDER:
                thread.join(60)
    assert main(["sync"]) == 0
    check_told()


def test_a_model_whose_run_the_store_does_not_have_is_a_plain_note(
    project: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    train("another", "of-another-model")
    said = run(capfd, "evaluate")
    assert said.startswith("MLflow: not told, as ") and said.endswith(f"has no run of this training, {FINGERPRINT}")
    assert not list(paths.SPOOL.iterdir()) and not caplog.text
    assert the_run().data.metrics == {}, "and none is made for it"
    train()
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (own,) = [one for one in runs() if one.data.tags["fingerprint"] == FINGERPRINT]
    client.delete_run(own.info.run_id)
    assert run(capfd, "evaluate").startswith("MLflow: not told, as ")


def test_where_no_run_was_ever_recorded_no_store_is_made(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("mlflow.db").unlink()
    assert run(capfd, "evaluate") == "MLflow: not told, as no run has been recorded here"
    paths.RUN.unlink()
    assert run(capfd, "evaluate") == "MLflow: not told, as no models/run.json says which run made the model"
    assert not Path("mlflow.db").exists() and not paths.SPOOL.exists()


def test_an_address_that_is_none_is_refused_before_any_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = paths.EVALUATION.read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://")
    for command in ("evaluate", "report"):
        assert main([command]) == 2
        assert "MLFLOW_TRACKING_URI" in capfd.readouterr().err
    assert paths.EVALUATION.read_bytes() == before and not paths.REPORTS.exists()


def test_a_place_that_cannot_be_written_costs_a_warning(
    project: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    train()
    shutil.rmtree(paths.SPOOL)
    paths.SPOOL.write_text("where a folder should be")
    assert run(capfd, "evaluate") == ""
    assert "MLflow is not told" in caplog.text


def test_all_items_have_names_that_say_so(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train()
    change_params(project, {"evaluate": {"benchmarks": ["quiz"], "limit": 5}})
    write_items(paths.BENCHMARKS, make_items("quiz", 20, 3, longest=4))
    report = read_json(paths.DOCUMENTS / "report.json", "")
    report["contaminated"] |= {"quiz": {"touched": []}}
    write_json(paths.DOCUMENTS / "report.json", report)
    run(capfd, "evaluate")
    few = the_run().data.metrics
    run(capfd, "evaluate", "--all-items")
    figures = the_run().data.metrics
    assert few.items() <= figures.items(), "the figures of the few items stay"
    assert figures.keys() - few.keys() == {
        *(f"all_items.quiz.{figure}" for figure in ("accuracy", "accuracy_norm", "bits_per_byte")),
        "all_items.benchmarks_centred",
    }
    assert measured()["benchmarks"]["quiz"]["items"] == 5
    assert b'"items": 20' in artifact("evaluation/all_items.json")


@pytest.mark.slow
def test_a_server_of_mlflow_that_was_killed_and_came_back_has_it_all_once(
    project: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    server = start_mlflow(project, f"sqlite:///{project}/mlflow.db", port)
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    try:
        train()
        run(capfd, "evaluate")
        assert the_run(uri).data.metrics["test_bits_per_byte"] == measured()["test"]["bits_per_byte"]
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        assert run(capfd, "evaluate") == run(capfd, "report") == ""
        assert caplog.text.count("waits for `gpt sync`") == 2
        server = start_mlflow(project, f"sqlite:///{project}/mlflow.db", port)
        assert main(["sync"]) == 0
        client, run_id = MlflowClient(uri), the_run(uri).info.run_id
        assert len(client.get_metric_history(run_id, "test_bits_per_byte")) == 1
        picture = Path(client.download_artifacts(run_id, "evaluation/training.png"))
        assert picture.read_bytes() == (paths.REPORTS / "training.png").read_bytes()
        assert not list(paths.SPOOL.iterdir())
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
