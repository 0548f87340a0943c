import json
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gpt.tracking.delivery import deliver, deliver_left_behind
from gpt.tracking.journal import Journal
from gpt.tracking.store import training_run
from tests.training.checkpoints.test_saver import files_of_at_most


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A real MLflow store in a folder of its own, which the journal finds as a project would."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def begin(run: str) -> Journal:
    journal = Journal(Path("spool"), run)
    journal.append("start", experiment="e", run=run, fingerprint=f"f-{run}")
    journal.append("params", values={"train.max_steps": 3})
    return journal


def kill(journal: Journal) -> None:
    """Leave a journal as a killed process does."""
    journal._file.close()


def run_of(store: MlflowClient, name: str) -> str:
    """Return MLflow's id of a run by its name."""
    experiment = store.get_experiment_by_name("e")
    assert experiment is not None
    (run,) = store.search_runs([experiment.experiment_id], f"tags.`gpt.run` = '{name}'")
    return run.info.run_id


def points(store: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in store.get_metric_history(run_id, key))


def test_everything_arrives_and_a_finished_run_leaves_no_spool(store: MlflowClient) -> None:
    journal = begin("one")
    journal.start()
    for step in range(1, 1501):
        journal.append_metrics("train", step, {"loss": 1.0 / step})
    journal.append("text", path="samples/a.txt", text="héllo")
    journal.append("tags", values={"k": "v"})
    journal.append("end", status="FINISHED")
    assert journal.close(60)
    run_id = run_of(store, "one")
    run = store.get_run(run_id)
    assert (run.info.status, run.data.params["train.max_steps"], run.data.tags["k"]) == ("FINISHED", "3", "v")
    assert points(store, run_id, "loss") == [(step, 1.0 / step) for step in range(1, 1501)]
    assert [file.path for file in store.list_artifacts(run_id, "samples")] == ["samples/a.txt"]
    assert not list(Path("spool").iterdir())


def test_a_full_disk_holds_events_until_there_is_room(
    store: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = begin("full")
    path = tmp_path / "spool" / "full.jsonl"
    before = path.read_bytes()
    with files_of_at_most(len(before) + 20):
        for step in (1, 2):
            journal.append_metrics("train", step, {"loss": 1.0 / step})
    assert path.read_bytes() == before, "no half line"
    assert caplog.text.count("events are held until there is room") == 1
    journal.append("end", status="FINISHED")
    assert [event["kind"] for event in map(json.loads, path.read_text(encoding="utf-8").splitlines())] == [
        "start", "params", "metrics", "metrics", "end",
    ]  # fmt: skip
    journal.start()
    assert journal.close(60)
    run_id = run_of(store, "full")
    assert points(store, run_id, "loss") == [(1, 1.0), (2, 0.5)]


def test_a_server_that_is_gone_costs_a_warning_and_gets_everything_later(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        journal = begin("two")
        journal.start()
        journal.append_metrics("train", 1, {"loss": 2.0})
        journal.append("end", status="FINISHED")
        assert not journal.close(60)
    assert caplog.text.count("training goes on") == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert deliver_left_behind(Path("spool")) == 1
    (run,) = store.search_runs([store.get_experiment_by_name("e").experiment_id])  # pyright: ignore[reportOptionalMemberAccess]
    assert run.info.status == "FINISHED"
    assert points(store, run.info.run_id, "loss") == [(1, 2.0)]
    assert deliver_left_behind(Path("spool")) == 0


def test_the_next_run_delivers_what_an_earlier_one_could_not(store: MlflowClient) -> None:
    left = begin("earlier")
    left.append_metrics("train", 1, {"loss": 2.0})
    left.append("end", status="FINISHED")
    kill(left)
    journal = begin("later")
    journal.start()
    journal.append("end", status="FINISHED")
    assert journal.close(60)
    experiment = store.get_experiment_by_name("e")
    assert experiment is not None
    runs = {run.info.run_name: run for run in store.search_runs([experiment.experiment_id])}
    assert points(store, runs["earlier"].info.run_id, "loss") == [(1, 2.0)]
    assert not list(Path("spool").iterdir())


def test_a_resumed_run_tells_no_step_twice(store: MlflowClient) -> None:
    first = begin("three")
    for step in range(1, 9):
        first.append_metrics("train", step, {"loss": float(step)})
    deliver(Path("spool/three.jsonl"))  # and then it was killed
    second = Journal(Path("spool"), "three")
    assert not second.is_new
    second.append("resume")
    for step in range(5, 13):
        second.append_metrics("train", step, {"loss": float(step)})
    second.start()
    second.append("end", status="FINISHED")
    assert second.close(60)
    run_id = run_of(store, "three")
    assert points(store, run_id, "loss") == [(step, float(step)) for step in range(1, 13)]


def test_what_was_sent_but_not_noted_is_sent_again_without_a_trace(store: MlflowClient) -> None:
    journal = begin("four")
    journal.append_metrics("train", 1, {"loss": 1.0})
    path = Path("spool/four.jsonl")
    deliver(path)
    path.with_suffix(".state").unlink()  # killed after the server answered, before the note was written
    deliver(path)
    (run,) = store.search_runs([store.get_experiment_by_name("e").experiment_id])  # pyright: ignore[reportOptionalMemberAccess]
    assert points(store, run.info.run_id, "loss") == [(1, 1.0)]


def test_a_torn_last_line_is_not_sent_and_the_next_line_starts_anew(store: MlflowClient) -> None:
    begin("five")
    with Path("spool/five.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "metr')
    deliver(Path("spool/five.jsonl"))
    journal = Journal(Path("spool"), "five")
    journal.append_metrics("train", 1, {"loss": 1.0})
    deliver(Path("spool/five.jsonl"))
    assert points(store, run_of(store, "five"), "loss") == [(1, 1.0)]


def test_a_dataset_arrives_once_however_often_it_is_sent(store: MlflowClient) -> None:
    dataset = {
        "name": "e",
        "digest": "0" * 36,
        "source": "{}",
        "profile": '{"tokens": 3}',
        "tags": {"data_sha256": "0" * 64},
    }
    journal = begin("six")
    journal.append("dataset", **dataset)
    path = Path("spool/six.jsonl")
    deliver(path)
    path.with_suffix(".state").unlink()  # killed after the server answered, before the note was written
    deliver(path)
    journal.append("dataset", **dataset)
    deliver(path)
    (run,) = store.search_runs([store.get_experiment_by_name("e").experiment_id])  # pyright: ignore[reportOptionalMemberAccess]
    (data,) = run.inputs.dataset_inputs  # pyright: ignore[reportOptionalMemberAccess]
    assert (data.dataset.name, data.dataset.digest, data.dataset.profile) == ("e", "0" * 36, '{"tokens": 3}')
    assert {tag.key: tag.value for tag in data.tags} == {"mlflow.data.context": "training", "data_sha256": "0" * 64}


def test_a_run_that_was_registered_before_its_journal_arrived_is_taken_over(store: MlflowClient) -> None:
    journal = begin("seven")
    journal.append_metrics("train", 1, {"loss": 1.0})
    made = training_run(store, "e", "f-seven")
    assert (made.info.run_name, made.info.status) == ("f-seven", "FINISHED")
    deliver(Path("spool/seven.jsonl"))
    assert run_of(store, "seven") == made.info.run_id
    assert points(store, made.info.run_id, "loss") == [(1, 1.0)]
    begin("eight")  # the same training once more
    Path("spool/eight.jsonl").write_text(
        Path("spool/eight.jsonl").read_text(encoding="utf-8").replace("f-eight", "f-seven"), encoding="utf-8"
    )
    deliver(Path("spool/eight.jsonl"))
    assert run_of(store, "eight") != made.info.run_id, "a run is taken over once"


def test_of_several_trainings_the_newest_finished_one_counts(store: MlflowClient) -> None:
    for name, status in (("a", "FINISHED"), ("b", "FINISHED"), ("c", "KILLED")):
        journal = begin(name)
        journal.append("tags", values={"fingerprint": "same"})
        journal.append("end", status=status)
        deliver(Path(f"spool/{name}.jsonl"))
    assert training_run(store, "e", "same").info.run_name == "b"
