"""What a fine-tuned model was made from: its base model, its recipe, its examples; checked to belong together."""

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpt
from gpt.errors import UserError
from gpt.files import as_object, read_json, sha256_file, sha256_json, sha256_tree
from gpt.finetuning.data.prepare import data_settings_hash
from gpt.finetuning.jobs.job import examples_hash, trained_settings_hash
from gpt.finetuning.places import Places
from gpt.params.finetuning import Recipe
from gpt.params.project import PARAMS_FILE
from gpt.registry.disclosure import PATCH, check_uploads
from gpt.registry.git import read_code
from gpt.registry.lineage import DVC_LOCK, NONE, REQUIREMENTS_LOCK, Lineage, code_hash, hash_of
from gpt.registry.overview.facts import EVALUATION, RECIPE
from gpt.registry.versions import versions_of_weights
from gpt.secrets.hiding import redact_values
from gpt.tokens.tokenizer import tokenizer_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

Json = dict[str, Any]


def read_evaluation(places: Places) -> Json:
    """Return finetuning/NAME/evaluation.json; raise `UserError` if it is missing or of other weights than the model has."""
    again = f"run `gpt finetune evaluate {places.name}` first"
    evaluation = read_json(places.evaluation, again, ["weights_sha256", "base", "examples", "judge"])
    if evaluation["weights_sha256"] != sha256_file(places.model / "model.safetensors"):
        raise UserError(f"{places.evaluation}: measured other weights than {places.model} has; {again}")
    return evaluation


def collect(recipe: Recipe, places: Places) -> Lineage:
    """Return the lineage of a recipe's model.

    Raises `UserError` if a piece is missing or holds a secret, or model, evaluation, examples and recipe are not of one run.
    """
    weights = hash_of(places.model / "model.safetensors", f"run `gpt finetune train {places.name}` first")
    evaluation = read_evaluation(places)
    run_keys = ["fingerprint", "num_processes", "hardware", "data_sha256", "settings_sha256"]
    run = read_json(places.run, f"run `gpt finetune train {places.name}` first", run_keys)
    report = read_json(
        places.data / "report.json",
        f"run `gpt finetune data {places.name}` first",
        ["splits", "left_out", "settings_sha256"],
    )
    _check_made_of(recipe, places, evaluation, run, report)
    code = read_code(Path.cwd())
    files = {
        path.name: path.read_bytes()
        for path in (
            PARAMS_FILE,
            places.recipe.parent / DVC_LOCK,
            REQUIREMENTS_LOCK,
            places.training_plot,
            places.validation_plot,
        )
        if path.exists()
    }
    files |= {RECIPE: places.recipe.read_bytes(), EVALUATION: json.dumps(redact_values(evaluation)).encode()}
    if code.dirty:
        files[PATCH] = code.patch
    check_uploads({name: content for name, content in files.items() if name != EVALUATION})
    splits = report["splits"]
    return Lineage(
        git_commit=code.commit,
        git_dirty=code.dirty,
        code_sha256=code_hash(),
        params_sha256=recipe_hash(recipe),
        data_sha256=run["data_sha256"],
        test_documents_sha256=splits["test"]["sha256"],
        validation_documents_sha256=splits["validation"]["sha256"],
        contaminated_items=NONE,
        tokenizer_sha256=tokenizer_id(places.model / "tokenizer"),
        weights_sha256=weights,
        model_sha256=sha256_tree(places.model),
        dvc_lock_sha256=hash_of(places.recipe.parent / DVC_LOCK),
        dvc_lock_matches=False,  # its stages are those of other recipes too
        requirements_lock_sha256=hash_of(REQUIREMENTS_LOCK),
        precision=recipe.train.precision,
        hardware=run["hardware"],
        num_processes=run["num_processes"],
        fingerprint=run["fingerprint"],
        python=platform.python_version(),
        gpt=gpt.__version__,
        adoptions=run.get("adopted", []),
        parent=run.get("parent"),
        initial=evaluation["base"],
        inputs={path.stem: as_object(read_json(path, "")) for path in sorted(places.inputs.glob("*.json"))},
        files=files,
    )


def recipe_hash(recipe: Recipe) -> str:
    """Return the hash of the settings that decide a recipe's result and its figures: not of licences, nor of what is promoted."""
    values = recipe.model_dump(mode="json", exclude={"promote"})
    for source in values["data"]["sources"]:
        del source["licence"]
    return sha256_json(values)


def _check_made_of(recipe: Recipe, places: Places, evaluation: Json, run: Json, report: Json) -> None:
    name = places.name
    if report["settings_sha256"] != data_settings_hash(recipe):
        raise UserError(
            f"{places.recipe}: is not what {places.data} was made with; run `gpt finetune data {name}`, or put the values back"
        )
    if run["settings_sha256"] != trained_settings_hash(recipe):
        raise UserError(
            f"{places.recipe}: is not what {places.model} was trained with; run `gpt finetune train {name}`, or put the values back"
        )
    if run["data_sha256"] != examples_hash(report):
        raise UserError(
            f"{places.data}: not the examples that {places.model} has learned; run `gpt finetune train {name}`"
        )
    test = report["splits"]["test"]["sha256"]
    if evaluation["judge"] != recipe.judge.model_dump(mode="json") or evaluation.get("test_sha256") != test:
        raise UserError(
            f"{places.evaluation}: not measured as {places.recipe} says, or on other examples; run `gpt finetune evaluate {name}`"
        )


def find_base(client: "MlflowClient", base: Json, name: str) -> Json:
    """Return the base model as source.json names it; of a folder, with a registered version of its weights, one of `name` first."""
    if base.get("uri"):
        return base
    found = versions_of_weights(client, base["weights_sha256"])
    found.sort(key=lambda version: (version.name != name, int(version.version)))
    if not found:
        return base
    version = found[0]
    known = {"fingerprint": version.tags.get("fingerprint")} | base
    return known | {"uri": f"models:/{version.name}/{version.version}", "run_id": version.run_id}
