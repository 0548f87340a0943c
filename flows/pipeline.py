"""The flows. What changes a result is no parameter of theirs, but in params.yaml, or in a recipe of fine-tuning.

`pretrain`: every stage of dvc.yaml through DVC, then the registry, then what a person wants to see in Prefect's UI. `finetune`: the
stages of a recipe, then the registry. `reproduce`: a registered version made again and compared by `gpt reproduce`; Prefect records
the verdict.
"""

import json
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.artifacts import publish
from flows.processes import workspace
from flows.stages import StageError, Stopped, explain, run_logged, run_stage, says_what_stopped_it
from gpt.errors import UserError
from gpt.files import read_json
from gpt.finetuning.places import Places
from gpt.params.finetuning import FOLDER, recipe_file
from gpt.registry.disclosure import check_project
from gpt.secrets.hiding import guard_output

# The stages of dvc.yaml, in an order in which each comes after what it depends on.
STAGES = (
    "inputs", "fetch", "fetch_benchmarks", "fetch_weights", "prepare", "tokenizer", "tokenize", "data_card", "pretrain",
    "evaluate", "report",
)  # fmt: skip


# Those of finetuning/dvc.yaml, of each recipe.
RECIPE_STAGES = ("finetune_inputs", "finetune_data", "finetune", "evaluate_finetuned", "report_finetuned")
_DIFFERS = 1  # the exit code of `gpt reproduce`, if a verdict was printed


@flow(name="pretrain", persist_result=False)
def pretrain() -> dict[str, Any] | State:
    """Make the model of the project in the current folder and register it; return what `gpt register` said."""
    guard_output()  # a deployed flow begins here
    with workspace.living(flow_run.id), workspace.alone(get_run_logger().warning):
        return _pretrain()


def _pretrain() -> dict[str, Any] | State:
    try:
        check_project(Path.cwd())  # what `gpt register` would refuse after days of training
    except UserError as error:
        return Failed(message=str(error), data=StageError("register", str(error), exit_code=2))
    for name in STAGES:
        state = run_stage(name, return_state=True)
        if not state.is_completed():
            return _same_failure(state)
    state = register(return_state=True)
    if not state.is_completed():
        return _same_failure(state)
    registered: Any = state.result()
    publish(registered)
    return registered


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
@says_what_stopped_it
def register(recipe: str | None = None) -> State:
    """Register the evaluated model, or a recipe's, as the candidate; carry the JSON object that `gpt register` ends with."""
    command = ["register"] if recipe is None else ["finetune", "register", recipe]
    exit_code, said = run_logged([str(Path(sys.prefix) / "bin" / "gpt"), *command, "--json"])
    if exit_code != 0:
        return Failed(message=str(error := explain("register", exit_code, said)), data=error)
    return Completed(message="Registered", data=last_object(said))


@flow(name="finetune", flow_run_name="{recipe}", persist_result=False)
def finetune(recipe: str) -> dict[str, Any] | State:
    """Fine-tune a model as finetuning/RECIPE.yaml says, judge and register it; return its main figures and what was registered."""
    guard_output()  # a deployed flow begins here
    with workspace.living(flow_run.id), workspace.alone(get_run_logger().warning):
        return _finetune(recipe)


def _finetune(recipe: str) -> dict[str, Any] | State:
    try:
        places = Places(recipe)
        recipe_file(recipe)
        check_project(Path.cwd())  # what registering would refuse in the end
    except UserError as error:
        return Failed(message=str(error), data=StageError("finetune", str(error), exit_code=2))
    for name in RECIPE_STAGES:
        state = run_stage(f"{name}@{recipe}", FOLDER.as_posix(), return_state=True)
        if not state.is_completed():
            return _same_failure(state)
    state = register(recipe, return_state=True)
    if not state.is_completed():
        return _same_failure(state)
    registered: Any = state.result()
    return {"figures": read_json(places.metrics, "run `gpt finetune evaluate`")["test"], "registered": registered}


@flow(name="reproduce", persist_result=False)
def reproduce(model: str = "@champion") -> dict[str, Any] | State:
    """Make a version again from its record and return the verdict; a version that differs is a failed run."""
    guard_output()  # a deployed flow begins here
    with workspace.living(flow_run.id):
        state = make_again(model, return_state=True)
    if not state.is_completed():
        return _same_failure(state)
    verdict: Any = state.result()
    return verdict


@task(name="make again", task_run_name="{model}", cache_policy=NO_CACHE, persist_result=False)
@says_what_stopped_it
def make_again(model: str) -> State:
    """Run `gpt reproduce`, which goes on where it was stopped; carry the JSON object that it ends with."""
    command = [str(Path(sys.prefix) / "bin" / "gpt"), "reproduce", model, "--json"]
    exit_code, said = run_logged(command)
    if exit_code == 0:
        verdict = last_object(said)
        _show(verdict, "identical")
        return Completed(message=f"{verdict['model']}: identical", data=verdict)
    if exit_code == _DIFFERS and any(line.startswith('{"model"') for line in said):
        verdict = last_object(said)
        message = f"{verdict['model']}: differs, first in: {verdict['first']}"
        _show(verdict, "differs")
        return Failed(message=message, data=StageError("reproduce", message, exit_code))
    return Failed(message=str(error := explain("reproduce", exit_code, said)), data=error)


def _show(verdict: dict[str, Any], word: str) -> None:
    lines = [f"**{verdict['model']}: {word}**", "", f"weights `{verdict['weights_sha256']}`, on {verdict['host']}", ""]
    lines += [f"- {line}" for line in (*verdict["details"], *verdict["reasons"])]
    create_markdown_artifact(key="reproduced", markdown="\n".join(lines), description=verdict["model"])


def last_object(said: list[str]) -> dict[str, Any]:
    """Return the last line that is a JSON object; errors share the pipe and may follow it."""
    for line in reversed(said):
        if line.startswith("{"):
            return json.loads(line)
    raise ValueError("the command printed no JSON object, although --json asks for one")


def _same_failure(state: State) -> State:
    """Return the state of a flow whose task has failed; where it was stopped, raise what stopped it."""
    result: Any = state.result(raise_on_failure=False)
    if isinstance(result, Stopped):
        raise result.reason
    return Failed(message=state.message, data=result)
