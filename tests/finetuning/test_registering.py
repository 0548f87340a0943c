"""A recipe's model as a version of the registry: what it is called, what it was made from, what it answers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt.errors import UserError
from gpt.files import read_json, sha256_file
from gpt.finetuning.methods.saving import HEAD, LABELS
from gpt.finetuning.places import Places
from gpt.finetuning.registering.finetuned import register_recipe
from gpt.params.project import load_params
from gpt.registry.overview.card import write_card
from gpt.registry.overview.facts import of_model
from gpt.registry.overview.listing import read_overview, show
from gpt.registry.record import read_record
from gpt.registry.versions import CANDIDATE, all_versions, find, model_folder, version_of_alias
from gpt.reports.lineage import describe_lineage, draw_lineage
from gpt.tracking import store
from tests.finetuning.conftest import NAME, TALKS, change_recipe, register_base
from tests.registry.test_package import run_elsewhere

PLACES = Places(NAME)
CALLED = "shakespeare-gpt-small"


@pytest.mark.parametrize("kind", ["classify", "instruct"])
def test_a_version_is_there_once_and_says_what_it_was_made_from(make_tuned: Callable[..., Path], kind: str) -> None:
    make_tuned(kind)
    parent = register_base(PLACES.base)
    first, again = register_recipe(NAME, load_params()), register_recipe(NAME, load_params())
    assert (first.name, first.version, first.alias, first.new) == (CALLED, 1, CANDIDATE, True)
    assert (again.version, again.new, again.run_id) == (1, False, first.run_id)
    client = store.client()
    version = find(client, CALLED, 1)
    assert version is not None
    assert version.tags["started_from"] == parent
    weights = sha256_file(PLACES.model / "model.safetensors")
    assert version.tags["weights_sha256"] == weights
    record = read_record(client, version).values
    assert record["parents"]["started_from"]["uri"] == parent
    assert record["parents"]["started_from"]["weights_sha256"] == sha256_file(PLACES.base / "model.safetensors")
    assert record["recipe"]["values"]["task"]["kind"] == kind
    assert [source["name"] for source in record["sources"]] == ["examples"]
    assert record["figures"]["test_loss" if kind == "classify" else "test_bits_per_byte"] > 0
    told = describe_lineage(record, "head")
    assert parent in told and f"{NAME} " in told and "examples" in draw_lineage(record)
    run = client.get_run(first.run_id)
    assert run.data.tags["fingerprint"] == read_json(PLACES.run, "")["fingerprint"]
    assert run.data.metrics.keys() >= record["figures"].keys()
    kept = model_folder(client, version)
    assert {path.name for path in kept.iterdir()} == {path.name for path in PLACES.model.iterdir()}
    assert (kept / HEAD).exists() == (kind == "classify")


def test_what_people_read_says_that_it_was_fine_tuned(make_tuned: Callable[..., Path]) -> None:
    project = make_tuned("classify")
    parent = register_base(PLACES.base)
    register_recipe(NAME, load_params())
    client = store.client()
    overview = read_overview(client, CALLED)
    assert overview.rows[0].figure.startswith("accuracy ")
    table = show(overview, width=200)
    assert parent in table and "accuracy " in table and "bits/byte" not in table
    _, facts = of_model(f"models:/{CALLED}@candidate", "shakespeare-gpt", project)
    card = write_card(facts)
    assert f"fine-tuned from {parent}" in card and "naive Bayes" in card and "examples.jsonl" in card
    version = version_of_alias(client, CALLED, CANDIDATE)
    assert version is not None and version.description
    assert version.description.startswith("accuracy ") and "naive Bayes" in version.description


@pytest.mark.slow
def test_a_served_classifier_answers_with_labels_and_probabilities(
    make_tuned: Callable[..., Path], tmp_path: Path
) -> None:
    make_tuned("classify", train={"epochs": 6.0})
    register_recipe(NAME, load_params())
    code = f"""
        import json
        import mlflow
        mlflow.set_tracking_uri({f"sqlite:///{Path.cwd() / 'mlflow.db'}"!r})
        loaded = mlflow.pyfunc.load_model("models:/{CALLED}@candidate")
        found = loaded.predict([{{"prompt": "alas the king 9"}}, {{"prompt": "well met my lord 9"}}])
        print(found.to_json(orient="records"))
    """
    rows = json.loads(run_elsewhere(code, tmp_path).splitlines()[-1])
    labels = read_json(PLACES.model / LABELS, "")
    for row in rows:
        assert set(row["probabilities"]) == set(labels)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]


@pytest.mark.slow
def test_a_served_model_answers_through_its_template(make_tuned: Callable[..., Path], tmp_path: Path) -> None:
    make_tuned("instruct", train={"epochs": 60.0, "learning_rate": 0.01}, rows=TALKS[:1] + [
        {"messages": [{"role": "user", "content": f"who {n}?"}, {"role": "assistant", "content": "me"}]} for n in range(40)
    ])  # fmt: skip
    register_recipe(NAME, load_params())
    code = f"""
        import json
        import mlflow
        mlflow.set_tracking_uri({f"sqlite:///{Path.cwd() / 'mlflow.db'}"!r})
        loaded = mlflow.pyfunc.load_model("models:/{CALLED}@candidate")
        rows = [{{"prompt": "who 7?"}}, {{"prompt": "who <|end|> 8?"}}]
        print(json.dumps(loaded.predict(rows, params={{"max_new_tokens": 8, "temperature": 0.0}})["completion"].tolist()))
    """
    said = json.loads(run_elsewhere(code, tmp_path).splitlines()[-1])
    assert said[0] == "me", "it has learned to end, and a prompt is what a user says"


def test_what_does_not_belong_together_is_not_registered(make_tuned: Callable[..., Path]) -> None:
    make_tuned("classify")
    params = load_params()
    evaluation = PLACES.evaluation.read_bytes()
    change_recipe({"train": {"learning_rate": 0.1}})
    with pytest.raises(UserError, match=r"finetuning/small.yaml: is not what finetuning/small/model was trained with"):
        register_recipe(NAME, params)
    change_recipe({"train": {"learning_rate": 0.003}, "judge": {"samples": 1}})
    with pytest.raises(UserError, match=r"not measured as finetuning/small.yaml says"):
        register_recipe(NAME, params)
    change_recipe({"judge": {"samples": 5}, "data": {"limit": 3}})
    with pytest.raises(UserError, match="is not what finetuning/small/data was made with"):
        register_recipe(NAME, params)
    change_recipe({"data": {"limit": 0}})
    PLACES.evaluation.write_bytes(evaluation.replace(b'"weights_sha256": "', b'"weights_sha256": "0', 1))
    with pytest.raises(UserError, match="measured other weights"):
        register_recipe(NAME, params)
    PLACES.evaluation.unlink()
    with pytest.raises(UserError, match="run `gpt finetune evaluate small` first"):
        register_recipe(NAME, params)
    assert not all_versions(store.client(), CALLED)
