"""The main job and the promises around it, on made-up text: what `make demo` does, small."""

from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from gpt.files import read_json
from gpt.tracking.store import training_run
from tests.e2e.conftest import Project

STAGES = [
    "inputs", "fetch", "fetch_benchmarks", "fetch_weights", "prepare", "tokenizer", "tokenize", "data_card", "pretrain", "evaluate",
    "report",
]  # fmt: skip
REPRO = ("dvc", "repro")


@pytest.mark.slow
def test_the_flow_makes_a_registered_model_and_the_next_one_finds_every_stage_cached(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(register={"gate": {"max_bits_per_byte": 8.0}})
    output = project.run("flows.pretrain")
    closing = output[output.index("Held-out text") :]
    assert (
        f"{read_json(project.folder / 'metrics/evaluate.json', '')['test']['bits_per_byte']:.4f} bits per byte"
        in closing
    )
    assert "models:/shakespeare-gpt/1 (alias challenger)" in closing
    assert "reports/evaluate/index.html" in closing
    assert "gpt promote" in closing
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    version = client.get_model_version_by_alias("shakespeare-gpt", "candidate")
    fingerprint = read_json(project.folder / "models/run.json", "")["fingerprint"]
    run = training_run(client, "shakespeare-gpt", fingerprint)
    assert version.run_id == run.info.run_id
    bits_per_byte = read_json(project.folder / "metrics/evaluate.json", "")["test"]["bits_per_byte"]
    assert run.data.metrics["test_bits_per_byte"] == bits_per_byte
    told = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation")}
    assert told >= {f"evaluation/{path.name}" for path in (project.folder / "reports/evaluate").iterdir()}

    again = project.run("flows.pretrain")
    assert again.count("didn't change, skipping") == len(STAGES) - 1
    assert again.count("Running stage") == 1, "only of what stages compute with DVC cannot know"
    assert "models:/shakespeare-gpt/1 (alias challenger)" in again
    assert "version 1 is the champion now" in project.run("gpt", "promote")
    assert client.get_model_version_by_alias("shakespeare-gpt", "champion").run_id == version.run_id
    text = project.run("gpt", "generate", "to be", "--model", "models:/shakespeare-gpt@champion", "--seed", "1")
    assert text.startswith("to be")


@pytest.mark.slow
def test_repro_runs_what_changed_and_a_forced_one_gives_the_same_bytes(make_project: Callable[..., Project]) -> None:
    project = make_project()
    assert project.stages_run(project.run(*REPRO)) == STAGES
    assert project.stages_run(project.run(*REPRO)) == ["inputs"]
    first = project.locked_outputs()
    assert project.stages_run(project.run(*REPRO, "--force")) == STAGES
    second = project.locked_outputs()
    assert first.keys() == second.keys()
    assert first == second, "nothing in an output is of the hour"
    project.change(launch={"micro_batch_size": 4}, register={"gate": {"max_bits_per_byte": 1.0}})
    assert project.stages_run(project.run(*REPRO)) == ["inputs"], (
        "where it runs and what is registered changes no result"
    )
    project.change(train={"max_steps": 31})
    assert project.stages_run(project.run(*REPRO)) == ["inputs", "pretrain", "evaluate", "report"]
    project.change(train={"max_steps": 30}, launch={"micro_batch_size": 8})
    assert project.stages_run(project.run(*REPRO)) == ["inputs"], "the cache brings back what was computed before"
    assert project.locked_outputs() == second


def test_a_wrong_value_stops_the_flow_before_any_work(make_project: Callable[..., Project]) -> None:
    project = make_project(train={"learning_rate": -1})
    output = project.run("flows.pretrain", exit_code=2)
    assert output.startswith("error: params.yaml: train.learning_rate = -1")
    assert "Traceback" not in output
    assert not (project.folder / "data/raw").exists()
