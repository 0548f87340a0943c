"""What a recipe's commands tell: the run in MLflow, the terminal, and a page of texts that may mean harm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt.commands.main import main
from gpt.files import read_json, write_json
from gpt.finetuning.places import Places
from gpt.registry.overview.facts import of_folder
from gpt.reports.finetuned import write_report
from gpt.serving.facts import describe
from gpt.tracking import store
from gpt.tracking.pages.figures import main_figure
from tests.finetuning.conftest import NAME, register_base
from tests.reports.test_evaluation import EVIL, SHOWN, Page

PLACES = Places(NAME)
CALLED = "shakespeare-gpt-small"


def the_run() -> Any:
    client = store.client()
    experiment = client.get_experiment_by_name(CALLED)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_commands_tell_the_run_register_judge_and_promote(
    make_tuned: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    make_tuned("instruct", train={"epochs": 15.0, "learning_rate": 0.01})
    parent = register_base(PLACES.base)
    for command in ("evaluate", "report", "register"):
        assert main(["finetune", command, NAME]) == 0
    said = capfd.readouterr().out
    assert f"models:/{CALLED}/1 registered" in said
    assert "has passed the gate" in said and "bits_per_byte.floor" in said
    run, client = the_run(), store.client()
    evaluation = read_json(PLACES.evaluation, "")
    assert run.data.metrics["test_bits_per_byte"] == evaluation["bits_per_byte"]
    assert run.data.metrics["floor_bits_per_byte"] == evaluation["base_bits_per_byte"]
    assert "bits per byte" in run.data.tags["mlflow.note.content"]
    names = {item.path for item in client.list_artifacts(run.info.run_id, "evaluation")}
    assert names == {"evaluation/evaluation.json", "evaluation/report.html"}
    assert main(["promote", "--name", CALLED]) == 0
    assert f"{CALLED} version 1 is the champion now" in capfd.readouterr().out
    told = dict(describe(of_folder(PLACES.model, Path.cwd())))
    assert (told["Test examples"], told["Fine-tuned from"]) == (main_figure(evaluation), "models/start")
    assert main(["lineage", f"models:/{CALLED}@champion"]) == 0
    assert f"started from {parent}, named as models/start" in capfd.readouterr().out
    assert main(["models", CALLED]) == 0
    assert "@champion" in capfd.readouterr().out
    assert main(["reproduce", f"models:/{CALLED}@champion"]) == 2
    assert "was fine-tuned" in capfd.readouterr().err
    assert main(["promote", "--name", "another"]) == 2
    assert "another: not a model of this project" in capfd.readouterr().err


def test_what_is_missing_is_one_line(make_recipe: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    make_recipe("classify")
    for command in ("register", "report"):
        assert main(["finetune", command, NAME]) == 2
        error = capfd.readouterr().err
        assert len(error.splitlines()) == 1 and "run `gpt finetune" in error


@pytest.mark.parametrize("kind", ["classify", "instruct", "preference"])
def test_the_page_shows_what_was_measured_and_no_text_acts_on_it(make_tuned: Callable[..., Path], kind: str) -> None:
    make_tuned(kind)
    evaluation = read_json(PLACES.evaluation, "")
    if kind == "classify":
        evaluation["mistakes"] = [{"text": EVIL, "is": "sad", "said": "glad"}]
    if kind == "instruct":
        evaluation["samples"] = [{"asked": [{"role": EVIL, "content": EVIL}], "answer": EVIL, "wanted": EVIL}]
    write_json(PLACES.evaluation, evaluation)
    html = write_report(NAME).read_text(encoding="utf-8")
    assert html == write_report(NAME).read_text(encoding="utf-8"), "the same bytes again"
    page = Page(html)
    assert "script" not in page.tags and "img" not in page.tags
    assert not [value for _, name, value in page.attributes if name in ("src", "href") or name.startswith("on")]
    text = " ".join(page.sections.values())
    assert ("confusion matrix" in text) == (kind == "classify")
    assert {"classify": "naive Bayes", "instruct": "base model", "preference": "a coin"}[kind] in text
    assert (SHOWN in text) == (kind != "preference")
