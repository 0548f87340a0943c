import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from gpt import paths
from gpt.corpus.documents import read_documents
from gpt.errors import UserError
from gpt.evaluation.scores import ITEMS_FILE, PASSAGES_FILE, Items, Passages
from gpt.files import read_json, sha256_tree, write_json
from gpt.model.storage import load_model
from gpt.params.project import Params, load_params
from gpt.registry.frozen import Frozen, read_frozen
from gpt.registry.gate.reasons import CannotJudge, Reason
from gpt.registry.package import RegisteredModel, register
from gpt.registry.promotion import Promotion, judge_candidate, promote
from gpt.registry.trail import audit_trail
from gpt.registry.versions import all_versions, evaluation_folder
from gpt.sources.items import Choice, Item
from gpt.tracking import store
from tests.registry.conftest import answer, bits_per_byte, change_params, make_model

NAME = "small-gpt"


def frozen(version: int) -> Frozen:
    client = store.client()
    found = read_frozen(client, client.get_model_version(NAME, str(version)))
    assert found is not None
    return found


def set_quiz(
    project: Path, count: int = 100, *, touched: Iterable[int] = (), name: str = "quiz", **settings: Any
) -> Params:
    """Let params.yaml ask a benchmark of so many items, two choices each; training documents had passages of those `touched`."""
    items = [
        Item(
            id=f"{name}/{number:03}",
            benchmark=name,
            split="test",
            choices=tuple(Choice(f"to be or not {number}:", f" {word}") for word in ("king", "naïve")),
            answer=number % 2,
            texts=(f"question {number}",),
        )
        for number in range(count)
    ]
    examples = [replace(item, id=f"{item.id}/example", split="train", texts=("solved",)) for item in items[:5]]
    (project / paths.BENCHMARKS).mkdir(exist_ok=True)
    with (project / paths.BENCHMARKS / f"{name}.jsonl").open("wb") as file:
        file.writelines(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in (*items, *examples))
    report = read_json(project / paths.DOCUMENTS / "report.json", "")
    report["contaminated"][name] = {"touched": [f"{name}/{number:03}" for number in touched]}
    write_json(project / paths.DOCUMENTS / "report.json", report)
    return change_params(project, {"evaluate": {"benchmarks": [name], "limit": 0, **settings}})


def let_answer(project: Path, correct: list[bool]) -> None:
    """Write that the project's model has answered the quiz so."""
    path = project / paths.SCORES / ITEMS_FILE
    items = Items.read(path)
    right = dict(zip((f"quiz/{number:03}" for number in range(len(correct))), correct, strict=True))
    nats = [
        np.array([1.0 if (place == answer) == right[name] else 20.0 for place in range(2)])
        for name, answer in zip(items.id.tolist(), items.answer.tolist(), strict=True)
    ]
    replace(items, nats=nats).write(path)


def register_quiz(project: Path, steps: int, correct: list[bool] | None = None) -> Params:
    """Register a model of so many steps that has answered so, or as it does."""
    make_model(project, steps)
    if correct:
        let_answer(project, correct)
    params = load_params(project / "params.yaml")
    register(params, project)
    return params


def reason_of(result: Promotion, check: str) -> Reason:
    return next(reason for reason in result.reasons if reason.check == check)


def accuracy(project: Path, settings: dict[str, object]) -> float:
    """Return what the project's model really scores on the quiz."""
    before = (project / "params.yaml").read_bytes()
    change_params(project, {"evaluate": settings})
    items = answer(project, load_model(project / paths.BASE_MODEL)[0])
    (project / "params.yaml").write_bytes(before)
    return float(items.correct.mean())


def test_a_version_keeps_the_documents_and_scores_that_it_was_judged_on(
    registered: tuple[Path, RegisteredModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    kept = frozen(1)
    documents = list(read_documents(project / paths.DOCUMENTS, "test"))
    expected = sorted((each["id"], each["source"], each["text"]) for each in documents)
    assert [(each["id"], each["source"], each["text"]) for each in kept.documents()] == expected
    scores = Passages.read(project / paths.SCORES / PASSAGES_FILE).of_split("test")
    assert sorted(kept.passages.nats) == sorted(scores.nats)
    assert (len(kept.items), kept.benchmarks) == (0, {})


def test_a_damaged_file_is_told(project: Path, params: Params) -> None:
    register(params, project)
    client = store.client()
    folder = evaluation_folder(client, client.get_model_version(NAME, "1"))
    assert folder is not None
    with (folder / "documents.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"documents\.parquet: missing or damaged"):
        frozen(1)


def test_scores_of_another_model_are_refused(project: Path, params: Params) -> None:
    scores = (project / paths.SCORES / PASSAGES_FILE).read_bytes()
    make_model(project, steps=20)
    (project / paths.SCORES / PASSAGES_FILE).write_bytes(scores)
    with pytest.raises(UserError, match=r"not the scores of .*evaluate\.json; run `gpt evaluate` again"):
        register(params, project)
    shutil.rmtree(project / paths.SCORES)
    with pytest.raises(UserError, match=r"passages\.parquet: not found; run `gpt evaluate`"):
        register(params, project)
    assert all_versions(store.client(), NAME) == []


@pytest.mark.parametrize("where", ["document", "item"])
def test_a_token_in_a_text_is_refused_before_anything_is_uploaded(
    project: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = set_quiz(project, 2)
    make_model(project, 5)
    text = next(read_documents(project / paths.DOCUMENTS, "test"))["text"] if where == "document" else "question 0"
    monkeypatch.setenv("SERVICE_PASSWORD", text.splitlines()[0][:30] if where == "document" else "question 0")
    before = sha256_tree(project / "mlartifacts") if (project / "mlartifacts").exists() else None
    with pytest.raises(UserError, match=rf"{where} .*: line 1 seems to hold the value of SERVICE_PASSWORD"):
        register(params, project)
    assert (sha256_tree(project / "mlartifacts") if (project / "mlartifacts").exists() else None) == before
    assert all_versions(store.client(), NAME) == []


def test_answers_to_other_questions_than_params_yaml_asks_are_refused(project: Path) -> None:
    set_quiz(project, 20)
    make_model(project, 5)
    params = change_params(project, {"evaluate": {"limit": 10}})
    with pytest.raises(UserError, match=r"items\.parquet: not the answers to what evaluate in params\.yaml asks"):
        register(params, project)
    assert all_versions(store.client(), NAME) == []


def test_the_items_that_were_scored_stay_with_the_version_and_a_loss_on_them_is_refused(project: Path) -> None:
    set_quiz(project, num_fewshot=2)
    params = register_quiz(project, 5, [True] * 90 + [False] * 10)
    kept = frozen(1)
    assert sorted(item.id for item in kept.benchmarks["quiz"].items) == [f"quiz/{number:03}" for number in range(100)]
    assert len(kept.benchmarks["quiz"].examples) == 2
    assert kept.items.correct.sum() == 90
    assert promote(params, project).verdict == "promoted"

    refused = promote(register_quiz(project, 20, [True] * 40 + [False] * 60), project)
    assert [reason.check for reason in refused.reasons if not reason.passed] == ["quiz.accuracy.kept"]
    assert "0.400 against 0.900" in refused.describe()
    checks = {check["check"]: check["passed"] for check in audit_trail(store.client(), NAME)[-1].details["checks"]}
    assert checks["test_bits_per_byte"], "what passed is recorded too"
    assert not checks["quiz.accuracy.kept"]
    lenient = change_params(project, {"register": {"gate": {"max_regression_by_benchmark": {"quiz": 0.7}}}})
    judged = judge_candidate(lenient, project)
    assert judged is not None
    assert judged.verdict == "challenger"


def test_items_that_a_model_has_learned_from_do_not_count(project: Path) -> None:
    set_quiz(project)
    promote(register_quiz(project, 5), project)
    set_quiz(project, touched=range(50))
    result = promote(register_quiz(project, 20), project)
    assert "on 50 clean items" in result.describe()


def test_a_candidate_that_was_asked_after_other_examples_is_asked_as_the_champion_was(project: Path) -> None:
    set_quiz(project)
    promote(register_quiz(project, 5, [True] * 90 + [False] * 10), project)
    set_quiz(project, num_fewshot=3)
    result = promote(register_quiz(project, 20, [True] * 100), project)
    reason = reason_of(result, "quiz.accuracy.kept")
    assert (reason.figure, reason.threshold) == (accuracy(project, {"num_fewshot": 0}), 0.9)
    assert reason.figure != 1.0


@pytest.mark.slow
def test_scores_of_another_precision_are_computed_anew_for_the_champion(project: Path) -> None:
    set_quiz(project)
    promote(register_quiz(project, 5, [True] * 90 + [False] * 10), project)
    honest = accuracy(project, {})
    change_params(project, {"evaluate": {"precision": "bf16"}})
    result = promote(register_quiz(project, 20, [True] * 100), project)
    reason = reason_of(result, "quiz.accuracy.kept")
    assert reason.figure == 1.0
    assert reason.threshold == pytest.approx(honest, abs=0.05)


@pytest.mark.slow
def test_a_candidate_that_was_not_asked_what_the_champion_was_is_asked_now(project: Path) -> None:
    set_quiz(project, 20)
    promote(register_quiz(project, 5), project)
    change_params(project, {"evaluate": {"benchmarks": []}})
    result = promote(register_quiz(project, 20), project)
    assert reason_of(result, "quiz.accuracy.kept").figure == accuracy(project, {"benchmarks": ["quiz"]})


def test_a_benchmark_that_the_champion_was_not_asked_is_asked_now(project: Path) -> None:
    promote(register_quiz(project, 5), project)
    set_quiz(project)
    params = change_params(project, {"register": {"gate": {"min_improvement": {"quiz.accuracy": 0.0}}}})
    honest = accuracy(project, {})
    result = promote(register_quiz(project, 20, [True] * 100), project)
    assert reason_of(result, "quiz.accuracy").threshold == honest
    assert params.register_.gate.min_improvement["quiz.accuracy"] == 0.0


@pytest.mark.slow
def test_items_that_are_new_to_a_candidate_are_looked_for_in_its_training_documents(project: Path) -> None:
    text = " ".join(next(read_documents(project / paths.DOCUMENTS, "train"))["text"].split()[:20])
    set_quiz(project, 30)
    with (project / paths.BENCHMARKS / "quiz.jsonl").open("r+b") as file:
        lines = [orjson.loads(line) for line in file]
        lines[3]["texts"] = [text]
        file.seek(0)
        file.truncate()
        file.writelines(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
    promote(register_quiz(project, 5), project)
    change_params(project, {"evaluate": {"benchmarks": []}})
    assert "on 29 clean items" in promote(register_quiz(project, 20), project).describe()


def test_answers_that_are_stored_and_new_ones_are_compared_item_by_item(project: Path) -> None:
    set_quiz(project, 20, name="a_quiz")
    both = set_quiz(project, 30, benchmarks=["a_quiz", "quiz"])
    promote(register_quiz(project, 5), project)
    set_quiz(project, 20, name="a_quiz", touched=range(20))
    change = {"benchmarks": ["a_quiz", "quiz"], "by_benchmark": {"a_quiz": {"num_fewshot": 2}}}
    assert change_params(project, {"evaluate": change}) != both
    result = promote(register_quiz(project, 20), project)
    assert "on 30 clean items" in reason_of(result, "quiz.accuracy.kept").text
    assert "not measured" in reason_of(result, "a_quiz.accuracy.kept").text


def forget_texts(project: Path) -> None:
    """Take from version 1 what an earlier release did not keep."""
    client = store.client()
    folder = evaluation_folder(client, client.get_model_version(NAME, "1"))
    assert folder is not None
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_champion_of_an_earlier_release_is_scored_on_the_candidates_documents(project: Path) -> None:
    set_quiz(project)
    promote(register_quiz(project, 5), project)
    figure, honest = bits_per_byte(project), accuracy(project, {})
    forget_texts(project)
    result = promote(register_quiz(project, 20), project)
    reason = reason_of(result, "test_bits_per_byte")
    assert (result.verdict, reason.threshold) == ("promoted", pytest.approx(figure, rel=1e-6))
    assert reason_of(result, "quiz.accuracy.kept").threshold == honest


def test_a_champion_of_an_earlier_release_and_of_other_data_is_a_decision_by_name(project: Path) -> None:
    params = register_quiz(project, 5)
    promote(params, project)
    forget_texts(project)
    for key in ("data_sha256", "test_documents_sha256"):
        store.client().set_model_version_tag(NAME, "1", key, "another")
    register_quiz(project, 20)
    with pytest.raises(CannotJudge, match=r"models:/small-gpt/1: .*register it again, or .*gpt promote --other-data"):
        promote(params, project)
    assert promote(params, project, other_data=True).verdict == "promoted"


def test_a_version_that_has_lost_what_it_was_judged_on_is_registered_again(project: Path) -> None:
    params = register_quiz(project, 5)
    forget_texts(project)
    assert register(params, project).version == 2
    assert register(params, project).version == 2
