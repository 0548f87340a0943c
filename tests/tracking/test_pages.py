"""What a person sees of runs and experiments in MLflow's pages: names, charts in their order, descriptions, where a run is from."""

import base64
import json
import os
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from gpt.params.project import Params, load_params
from gpt.tracking import store
from gpt.tracking.pages import experiment as pages
from gpt.tracking.pages.description import describe_result
from gpt.tracking.pages.figures import name_all_items, name_figures
from gpt.tracking.pages.markdown import below_own_words
from gpt.tracking.pages.names import MOST_CHARACTERS, choose_name
from gpt.tracking.pages.source import source_tags
from gpt.training.pretrain import pretrain
from tests.tracking.conftest import begin_tracking

BEFORE = {
    "base.seed": "1", "evaluate.limit": "500", "fetch.books.sha256": "0" * 64, "model.n_layer": "4", "model.n_embd": "192",
    "prepare.filters": "[]", "train.checkpoint_interval": "100", "train.eval_interval": "250", "train.learning_rate": "0.01",
    "train.max_steps": "1000", "train.schedule": "wsd",
}  # fmt: skip
FIGURES: dict[str, Any] = {
    "test": {"loss": 3.5, "perplexity": 33.1, "bits_per_byte": 2.1, "documents": 2,
             "by_source": {"books": {"bits_per_byte": 2.0}, "web": {"bits_per_byte": 2.2}}},
    "validation": {"loss": 3.6, "perplexity": 36.6, "bits_per_byte": 2.2, "by_source": {"books": {"bits_per_byte": 2.2}}},
    "benchmarks": {"lambada": {"items": 9, "accuracy": 0.0, "accuracy_norm": 0.0, "standard_error": None, "chance": 0.0,
                               "bits_per_byte": 2.5, "perplexity": 1e6, "clean": None},
                   "piqa": {"items": 9, "accuracy": 0.5, "accuracy_norm": 0.6, "standard_error": 0.1, "chance": 0.5,
                            "bits_per_byte": 1.5, "perplexity": None, "clean": None}},
    "centred": 0.0, "tasks": {"mmlu": {"acc,none": 0.25}},
}  # fmt: skip


def the_experiment() -> Experiment:
    experiment = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").get_experiment_by_name("shakespeare-gpt")
    assert experiment is not None
    return experiment


def the_runs() -> list[Run]:
    """Return the runs of the experiment, the first one first."""
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    return list(
        client.search_runs([the_experiment().experiment_id], order_by=["attributes.start_time ASC"], max_results=100)
    )


def finish(params: Params, run: str | None = None, **tags: str) -> str:
    """Record a run without training it; return its name in the spool."""
    dataset = {"name": "small", "digest": "0" * 36, "source": "{}", "profile": "{}", "tags": {}}
    with begin_tracking(params, run, {"fingerprint": "f"} | tags, dataset) as tracker:
        return tracker.run


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "the same settings again"),
        ({"train.learning_rate": "0.02", "model.n_layer": "6"}, "learning_rate=0.02 n_layer=6"),
        ({"train.checkpoint_interval": "5", "train.max_steps": "9"}, "max_steps=9 checkpoint_interval=5"),
        ({"prepare.filters": "['c4']", "base.seed": "2"}, "seed=2 filters"),
        ({"evaluate.limit": "0", "model.later": "new"}, "the same settings again"),
        ({"fetch.books.sha256": "1" * 64}, "books.sha256"),
        ({"fetch.web.sha256": "1" * 64}, "+web"),
        (
            {"base.seed": "2", "model.n_layer": "6", "model.n_embd": "9", "train.schedule": "cosine", "train.max_steps": "9"},
            "max_steps=9 schedule=cosine n_embd=9 n_layer=6 +1 more",
        ),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_differs_from_the_one_before(changes: dict[str, str], name: str) -> None:
    assert choose_name(BEFORE | changes, {}, (BEFORE, {})) == name


def test_a_name_says_what_there_is_to_say() -> None:
    commit = {"mlflow.source.git.commit": "1a2b3c4d5e6f"}
    assert choose_name(BEFORE, {}, None) == "n_layer=4 n_embd=192 learning_rate=0.01 max_steps=1000"
    assert choose_name(BEFORE, commit, (BEFORE, {})) == "commit=1a2b3c4"
    assert choose_name(BEFORE, commit, (BEFORE, commit)) == "the same settings again"
    named = {"dvc.experiment": "longer"}
    assert choose_name(BEFORE | {"train.max_steps": "9"}, named, (BEFORE, {})) == "longer: max_steps=9"
    without = {key: value for key, value in BEFORE.items() if key != "fetch.books.sha256"}
    assert choose_name(without, {}, (BEFORE, {})) == "-books"
    ambiguous = BEFORE | {"tokenize.shuffle": "1", "model.shuffle": "2"}
    changed = ambiguous | {"tokenize.shuffle": "3", "model.shuffle": "4"}
    assert choose_name(changed, {}, (ambiguous, {})) == "model.shuffle=4 tokenize.shuffle=3"
    assert len(choose_name(BEFORE, {"dvc.experiment": "x" * 200}, None)) == MOST_CHARACTERS


def test_runs_are_named_when_they_begin_and_a_persons_choice_stays(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_project()
    params = load_params()
    first = finish(params)
    params = params.model_copy(update={"train": params.train.model_copy(update={"max_steps": 7})})
    finish(params)
    monkeypatch.setenv("DVC_EXP_NAME", "again")
    finish(params)
    begun, changed, same = the_runs()
    assert begun.info.run_name == "n_layer=1 n_embd=16 learning_rate=0.01 max_steps=30"
    assert changed.info.run_name == "max_steps=7"
    assert (same.info.run_name, same.data.tags["dvc.experiment"]) == ("again", "again")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.update_run(begun.info.run_id, name="the good one")
    finish(params, run=first)  # goes on without its journal
    assert client.get_run(begun.info.run_id).info.run_name == "the good one"
    assert begun.data.tags["gpt.run"] == first


def test_figures_have_the_names_that_the_gate_and_the_tags_use_and_those_not_measured_have_none() -> None:
    assert name_figures(FIGURES) == {
        "test_bits_per_byte": 2.1, "test_loss": 3.5, "test_perplexity": 33.1, "test_bits_per_byte.books": 2.0,
        "test_bits_per_byte.web": 2.2, "validation_bits_per_byte": 2.2, "lambada.accuracy": 0.0,
        "lambada.accuracy_norm": 0.0, "lambada.bits_per_byte": 2.5, "lambada.perplexity": 1e6, "piqa.accuracy": 0.5,
        "piqa.accuracy_norm": 0.6, "piqa.bits_per_byte": 1.5, "benchmarks_centred": 0.0, "mmlu.acc_none": 0.25,
    }  # fmt: skip
    assert (
        name_figures({"test": {"loss": float("nan"), "bits_per_byte": None}, "benchmarks": {}, "centred": None}) == {}
    )
    assert name_all_items({"benchmarks": {"a": {"accuracy": 1.0}}, "centred": 1.0}) == {
        "all_items.a.accuracy": 1.0,
        "all_items.benchmarks_centred": 1.0,
    }


def test_charts_are_curves_first_and_figures_after_them_and_the_view_draws_what_a_run_has(
    make_project: Callable[..., Path],
) -> None:
    make_project()
    pretrain(load_params())
    (run,) = the_runs()
    curves = run.data.metrics.keys()
    sections = sorted({key.rpartition("/")[0] for key in curves})
    assert sections == ["system", "train", "validation"], "MLflow shows `system/` apart, and in the end"
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "validation/loss"} <= curves
    assert "train/skipped_steps" not in curves, "nothing was skipped"
    figures = name_figures(FIGURES)
    assert all("/" not in key for key in figures), "they come after all sections"
    packed = json.loads(the_experiment().tags[pages.VIEW_TAG])["state"].removeprefix(pages.PACKED)
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    sometimes = {"train/skipped_steps", "validation/benchmarks/centred", "system/mfu"}
    drawn = {
        metric
        for chart in state["compareRunCharts"]
        for metric in chart.get("selectedMetricKeys", [chart["metricKey"]])
    }
    assert drawn - sometimes <= curves | figures.keys()
    assert {chart["metricKey"] for chart in state["compareRunCharts"] if chart["type"] == "BAR"} <= figures.keys()
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections


def test_an_experiment_says_its_kind_and_what_is_in_it_and_keeps_what_a_person_said(
    make_project: Callable[..., Path],
) -> None:
    make_project()
    client = store.client()
    own = client.create_experiment(
        "own", tags={"mlflow.note.content": "My study.", pages.KIND_TAG: "genai_development"}
    )
    for name in ("new", "own", "own"):
        store.experiment_id(client, name)
    new = client.get_experiment_by_name("new")
    assert new is not None
    assert new.tags[pages.KIND_TAG] == "custom_model_development" and "**new**" in new.tags["mlflow.note.content"]
    kept = client.get_experiment(own).tags
    assert (kept["mlflow.note.content"], kept[pages.KIND_TAG]) == ("My study.", "genai_development")
    assert kept[pages.VIEW_TAG] == new.tags[pages.VIEW_TAG]
    assert all(len(value) < 5000 for value in new.tags.values()), "as earlier releases of MLflow allow"


def test_a_run_says_which_command_commit_and_person_it_is_from(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_project()
    assert "mlflow.source.git.commit" not in source_tags("gpt pretrain", folder), "no repository"
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q", "-b", "work"], ["add", "params.yaml"], [*identity, "commit", "-qm", "begin"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    finish(load_params())
    (run,) = the_runs()
    assert run.data.tags["mlflow.source.name"] == "gpt pretrain"
    assert run.data.tags["mlflow.source.git.commit"] == commit.stdout.strip()
    assert (run.data.tags["mlflow.source.git.branch"], run.data.tags["git_dirty"]) == ("work", "false")
    assert run.data.tags["mlflow.user"]
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert source_tags("gpt pretrain", folder)["git_dirty"] == "true"
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # a number that nobody has
    assert "mlflow.user" not in source_tags("gpt pretrain", folder)


def test_a_run_is_described_from_its_start(make_project: Callable[..., Path]) -> None:
    make_project()
    finish(load_params())
    (run,) = the_runs()
    assert "A GPT of 1 layers, 2 heads, 16 wide" in run.data.tags["mlflow.note.content"]


def test_a_description_begins_with_what_counts_most_and_fits_whatever_it_is_given(params: Params) -> None:
    parts = describe_result(params, FIGURES, [{"prompt": "To be", "completion": "```\n| or <b>not" * 900}])
    text = below_own_words("Mine.", parts)
    assert text.startswith("Mine.\n\n<!--")
    assert "**2.1000** bits per byte of test documents, **0.0000** on benchmarks" in text.splitlines()[4]
    assert "piqa 9 50.0 % ± 10.0 % 50.0 % 1.500" in [" ".join(line.split()) for line in text.splitlines()]
    assert "````text\nTo be```" in text
    assert len(text) < MAX_TAG_VAL_LENGTH
    assert below_own_words("x" * 4990, parts).startswith("x" * 4990), "a person's words are never cut"
    assert describe_result(params, {}, []), "of nothing known, what was trained"
