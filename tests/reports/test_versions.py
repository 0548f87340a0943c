"""The page of a registered version beside the champion, from a real store."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from gpt import paths
from gpt.errors import UserError
from gpt.files import write_json
from gpt.params.project import Params
from gpt.registry.package import register
from gpt.registry.versions import find
from gpt.reports.model_page.versions import compare_versions, of_version
from gpt.tracking import store
from tests.registry.conftest import built, make_model, params, project
from tests.reports.test_evaluation import Page

__all__ = ["built", "params", "project"]


def test_a_candidate_stands_beside_the_champion_with_what_their_runs_know(project: Path, params: Params) -> None:
    (project / paths.TRAINING_PLOT).parent.mkdir()
    (project / paths.TRAINING_PLOT).write_text("step,train_loss\n2,5.5\n4,5.4\n")
    (project / paths.TOKENIZE_COUNTS).write_text('{"train": {"tokens": 9, "by_source": {"made-up": {"tokens": 9}}}}')
    for steps, text in ((5, " then"), (8, " now")):
        make_model(project, steps)
        write_json(project / paths.SAMPLES, [{"prompt": "to be", "temperature": 0.0, "completion": text}])
        register(params, project)
    client = store.client()
    champion, candidate = (find(client, "small-gpt", number) for number in (1, 2))
    assert champion and candidate and candidate.run_id
    for step, rate in ((2, 900.0), (4, 1000.0), (4, 1100.0)):
        client.log_metric(candidate.run_id, "train/tokens_per_second", rate, step=step)
    models = of_version(client, candidate, "candidate"), of_version(client, champion, "champion")
    verdict = [{"check": "x", "passed": True, "text": "y"}]
    path = compare_versions(project / paths.COMPARISON, client, candidate, champion, verdict)
    assert path == project / "reports/comparison/index.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.row("temperature 0") == ["to be now", "to be then"]
    bits = [f"{model.split('test')['bits_per_byte']:.4f}" for model in models]
    assert [row[2] for row in page.rows if row[0] == "test" and row[1].startswith("version")] == bits
    assert len(set(bits)) == 2
    assert models[0].throughput == ((2, 900.0), (4, 1100.0)), "the last of a step"
    assert models[1].throughput == ()
    assert models[0].tokens["train"]["by_source"].keys() == {"made-up"}
    assert models[1].training["step"] == [2.0, 4.0]
    assert page.row("MLflow run")[0] == candidate.run_id
    assert page.row("hardware") == ["a machine", "a machine"]
    assert {"Verdict", "Lineage", "Training"} <= page.sections.keys()
    assert "made-up" in page.sections["Lineage"]
    assert page.row("made-up")[1] == "none", "the licence"


def test_a_version_whose_run_was_deleted_is_shown_without_it(project: Path, params: Params) -> None:
    register(params, project)
    client = MlflowClient(store.tracking_uri())
    version = find(client, "small-gpt", 1)
    assert version
    alone = compare_versions(project / paths.COMPARISON, client, version, version).read_text(encoding="utf-8")
    assert "<h1>Evaluation of version 1 (candidate)</h1>" in alone, "beside itself nothing stands"
    known = of_version(client, version, "candidate")
    client.delete_run(version.run_id or "")
    assert of_version(client, version, "candidate").evaluation == known.evaluation


def test_a_version_that_is_not_ours_is_a_clear_error(project: Path) -> None:
    client = store.client()
    client.create_registered_model("other")
    version = client.create_model_version("other", (project / "x").as_uri())
    with pytest.raises(UserError, match="not registered by `gpt register`"):
        of_version(client, version, "champion")
