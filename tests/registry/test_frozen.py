import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt import paths
from gpt.corpus.documents import read_documents
from gpt.errors import UserError
from gpt.evaluation.scores import ITEMS_FILE, PASSAGES_FILE, Items, Passages
from gpt.files import sha256_tree
from gpt.params.project import Params, load_params
from gpt.registry.frozen import Frozen, read_frozen
from gpt.registry.package import RegisteredModel, register
from gpt.registry.promotion import judge_candidate, promote
from gpt.registry.trail import audit_trail
from gpt.registry.versions import all_versions, evaluation_folder
from gpt.tracking import store
from tests.registry.conftest import make_model

NAME = "small-gpt"


def frozen(version: int) -> Frozen:
    client = store.client()
    found = read_frozen(client, client.get_model_version(NAME, str(version)))
    assert found is not None
    return found


def score_items(project: Path, correct: list[bool], clean: list[bool] | None = None) -> None:
    """Let the model of the project have answered questions, as `gpt evaluate` writes it."""
    count = len(correct)
    items = Items(
        benchmark=np.full(count, "quiz"),
        id=np.array([f"quiz/{number:03}" for number in range(count)]),
        clean=np.array(clean or [True] * count),
        answer=np.zeros(count, np.int64),
        chance=np.full(count, 0.5),
        nats=[np.array([1.0, 2.0] if right else [2.0, 1.0]) for right in correct],
        bytes=[np.array([4, 4])] * count,
        greedy=np.zeros(count, np.bool_),
    )
    items.write(project / paths.SCORES / ITEMS_FILE)
    lines = [
        {"id": f"quiz/{number:03}", "benchmark": "quiz", "texts": [f"question {number}"]} for number in range(count)
    ]
    (project / paths.BENCHMARKS).mkdir(exist_ok=True)
    extra = {"id": "quiz/not-scored", "benchmark": "quiz", "texts": ["nobody asked"]}
    text = "".join(json.dumps(line) + "\n" for line in [*lines, extra])
    (project / paths.BENCHMARKS / "quiz.jsonl").write_text(text)


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
    assert (len(kept.items), list(kept.item_texts())) == (0, [])


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
    with pytest.raises(UserError, match=r"passages\.parquet: not found; run `gpt evaluate` again"):
        register(params, project)
    assert all_versions(store.client(), NAME) == []


@pytest.mark.parametrize("where", ["document", "item"])
def test_a_token_in_a_text_is_refused_before_anything_is_uploaded(
    project: Path, params: Params, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_items(project, [True])
    text = next(read_documents(project / paths.DOCUMENTS, "test"))["text"] if where == "document" else "question 0"
    monkeypatch.setenv("SERVICE_PASSWORD", text.splitlines()[0][:30] if where == "document" else "question 0")
    before = sha256_tree(project / "mlartifacts") if (project / "mlartifacts").exists() else None
    with pytest.raises(UserError, match=rf"{where} .*: line 1 seems to hold the value of SERVICE_PASSWORD"):
        register(params, project)
    assert (sha256_tree(project / "mlartifacts") if (project / "mlartifacts").exists() else None) == before
    assert all_versions(store.client(), NAME) == []


def test_the_items_that_were_scored_stay_with_the_version_and_a_loss_on_them_is_refused(
    project: Path, params: Params
) -> None:
    make_model(project, 5)
    score_items(project, [True] * 90 + [False] * 10)
    register(params, project)
    assert [item["id"] for item in frozen(1).item_texts()] == [f"quiz/{number:03}" for number in range(100)]
    assert frozen(1).items.correct.sum() == 90
    assert promote(params, project).verdict == "promoted"

    make_model(project, 20)
    score_items(project, [True] * 40 + [False] * 60)
    register(params, project)
    refused = promote(params, project)
    assert [reason.check for reason in refused.reasons if not reason.passed] == ["quiz.accuracy.kept"]
    assert "0.400 against 0.900" in refused.describe()
    gate = params.register_.gate.model_copy(update={"max_regression_by_benchmark": {"quiz": 0.7}})
    lenient = params.model_copy(update={"register_": params.register_.model_copy(update={"gate": gate})})
    judged = judge_candidate(lenient, project)
    assert judged is not None
    assert judged.verdict == "challenger"


def test_items_that_a_model_has_learned_from_do_not_count(project: Path, params: Params) -> None:
    make_model(project, 5)
    score_items(project, [True] * 50 + [False] * 50)
    register(params, project)
    promote(params, project)
    make_model(project, 20)
    score_items(project, [True] * 50 + [False] * 50, [number < 50 for number in range(100)])
    register(params, project)
    result = promote(params, project)
    assert "on 50 clean items" in result.describe()


def test_a_candidate_that_was_not_asked_what_the_champion_was_is_refused(project: Path, params: Params) -> None:
    make_model(project, 5)
    score_items(project, [True] * 20)
    register(params, project)
    promote(params, project)
    make_model(project, 20)
    (project / paths.SCORES / ITEMS_FILE).unlink()
    register(params, project)
    result = promote(params, project)
    assert [reason.check for reason in result.reasons if not reason.passed] == ["quiz.accuracy"]
    checks = {check["check"]: check["passed"] for check in audit_trail(store.client(), NAME)[-1].details["checks"]}
    assert checks["test_bits_per_byte"], "what passed is recorded too"
    assert not checks["quiz.accuracy"]
    assert dataclasses.asdict(audit_trail(store.client(), NAME)[-1])["verdict"] == "refused"
    assert load_params(project / "params.yaml").register_.name == NAME
