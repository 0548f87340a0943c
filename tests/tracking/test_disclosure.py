"""What a run tells MLflow holds no secret, from the spool on; nor does a warning that the server is away."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.server import free_port
from gpt.errors import UserError
from gpt.tracking.delivery import deliver, deliver_left_behind
from gpt.tracking.journal import Journal

SECRET = "s3cr3t" + "Xk7vQ2pL9"


@pytest.fixture
def journal(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal of a run that has secrets in all that it tells, in the current folder with a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    journal = Journal(Path("spool"), "run")
    journal.append("start", experiment="e", run="run", fingerprint="f")
    journal.append("params", values={"evaluate.prompts": ["a", f"mysql://u:{SECRET}@h"], "train.max_steps": 3})
    journal.append("tags", values={"hardware": f"a machine {SECRET}", "launch": {"password": "short"}})
    journal.append("text", path="samples/step_1.txt", text=f"to be https://u:{SECRET}@h or not")
    journal.append_metrics("train", 1, {"train_loss": 2.5})
    return Path("spool/run.jsonl")


def test_events_hold_none_in_the_spool_in_the_database_and_in_artifacts(journal: Path) -> None:
    deliver(journal)
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.data.params == {"evaluate.prompts": "['a', 'mysql://u:***@h']", "train.max_steps": "3"}
    assert run.data.tags["hardware"] == "a machine ***"
    assert run.data.metrics == {"train_loss": 2.5}
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert any(path.name == "step_1.txt" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes() or b"short" in path.read_bytes()]


def test_a_server_that_is_away_is_named_without_its_password(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "postgresql+psycopg2"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:{SECRET}%2F@127.0.0.1:{free_port()}/x")
        with pytest.raises(UserError, match=r"127\.0\.0\.1:.* cannot be reached") as refusal:
            deliver_left_behind(Path("spool"))
        assert SECRET not in str(refusal.value)
    assert journal.exists()
