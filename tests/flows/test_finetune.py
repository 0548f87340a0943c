"""`python -m flows.finetune` as a user meets it: real Prefect and DVC, and a `gpt finetune` that only writes what it should."""

import shutil

import pytest
import yaml

from flows.pipeline import RECIPE_STAGES
from gpt.code import FINETUNE_STAGES
from gpt.params.finetuning import FOLDER, Recipe
from tests.flows.conftest import REPOSITORY, Api, Project
from tests.flows.test_pretrain import last_flow_run

FLOW = ("-m", "flows.finetune")
STAND_IN = """
OUTS = {
    "inputs": [f"inputs/{stage}.json" for stage in ("finetune_data", "finetune", "evaluate_finetuned", "report_finetuned")],
    "data": ["base/x", "data/x", "held_out/x"],
    "train": ["model/x", "run.json", "training.csv", "validation.csv"],
    "evaluate": ["evaluation.json", "outcomes.parquet", "metrics.json"],
    "report": ["report.html"],
}
stage, recipe = sys.argv[2:4]
if stage == "register":
    print(json.dumps({"name": "small-gpt-spam", "version": 1, "alias": "challenger"}))
    sys.exit()
if stage == "train" and Path("bad").exists():
    print("error: no such data; choose others", file=sys.stderr)
    sys.exit(2)
for name in OUTS[stage]:
    path = Path("finetuning", recipe, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"test": {"accuracy": 0.5}}))
with open("ran.txt", "a") as file:
    file.write(f"{stage}\\n")
sys.exit()
"""


def stages() -> dict[str, dict[str, object]]:
    values = yaml.safe_load((REPOSITORY / FOLDER / "dvc.yaml").read_text(encoding="utf-8"))
    return {name: stage["do"] for name, stage in values["stages"].items()}


def test_a_recipes_stages_are_those_of_the_flow_and_depend_on_all_of_its_settings() -> None:
    assert tuple(stages()) == RECIPE_STAGES
    assert set(FINETUNE_STAGES) == set(RECIPE_STAGES) - {"finetune_inputs"}
    named = {
        section
        for stage in stages().values()
        for entry in stage.get("params", [])  # pyright: ignore[reportGeneralTypeIssues]
        for sections in entry.values()
        for section in sections
    }
    assert named == set(Recipe.model_fields)


def test_every_committed_recipe_has_stages() -> None:
    values = yaml.safe_load((REPOSITORY / FOLDER / "dvc.yaml").read_text(encoding="utf-8"))
    recipes = {path.stem for path in (REPOSITORY / FOLDER).glob("*.yaml")} - {"dvc"}
    assert set(values["vars"][0]["recipes"]) == recipes


@pytest.fixture
def recipe(project: Project) -> Project:
    folder = project.root / FOLDER
    folder.mkdir()
    for name in ("dvc.yaml", "spam.yaml", "chat.yaml", "tasks.yaml"):
        shutil.copy(REPOSITORY / FOLDER / name, folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    project.break_stage("finetune", STAND_IN)
    return project


@pytest.mark.slow
def test_one_command_goes_from_labelled_data_to_figures_and_runs_only_what_has_changed(
    recipe: Project, api: Api
) -> None:
    done = recipe.run(*FLOW, "spam")
    assert done.returncode == 0, done.stderr
    assert "accuracy                 0.5000" in done.stdout
    assert "models:/small-gpt-spam/1 (alias challenger)" in done.stdout
    assert last_flow_run(api)["state"]["name"] == "Completed"
    ran = recipe.root / "ran.txt"
    assert ran.read_text().split() == ["inputs", "data", "train", "evaluate", "report"]
    path = recipe.root / FOLDER / "spam.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("epochs: 4.0", "epochs: 5.0"), encoding="utf-8")
    assert recipe.run(*FLOW, "spam").returncode == 0
    assert ran.read_text().split()[5:] == ["inputs", "train", "report"], "what the model is judged by has not changed"
    (recipe.root / "bad").touch()
    path.write_text(path.read_text(encoding="utf-8").replace("epochs: 5.0", "epochs: 6.0"), encoding="utf-8")
    done = recipe.run(*FLOW, "spam")
    assert done.returncode == 2
    assert "error: finetune@spam: no such data; choose others" in done.stderr


@pytest.mark.slow
def test_a_recipe_that_is_none_is_one_line(recipe: Project) -> None:
    for name in ("other", "../params", "dvc"):
        done = recipe.run(*FLOW, name)
        assert done.returncode == 2
        assert f"finetuning/{name}.yaml: no such recipe; there are chat, spam, tasks" in done.stderr.splitlines()[-1]
