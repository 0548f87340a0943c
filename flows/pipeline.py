"""Flows that make a model: every stage through DVC, then the registry, then what a person wants to see in Prefect's UI.

What changes a result is no parameter of theirs, but in params.yaml, or in a recipe of fine-tuning. What a deployment may choose is
whether data that have changed are taken into params.yaml, and when the run has to end.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.artifacts import publish
from flows.operations import reproduce  # noqa: F401 (projects that were made before name it here)
from flows.stages import (
    GPT,
    StageError,
    explain,
    last_object,
    run_logged,
    run_stage,
    same_failure,
    says_what_stopped_it,
    timed_out,
)
from flows.upkeep import workspace
from gpt.errors import UserError
from gpt.files import read_json
from gpt.finetuning.places import Places
from gpt.params.finetuning import FOLDER, recipe_file
from gpt.params.project import load_params
from gpt.registry.disclosure import check_project
from gpt.secrets.hiding import guard_output

# The stages of dvc.yaml, in an order in which each comes after what it depends on.
STAGES = (
    "inputs", "fetch", "fetch_benchmarks", "fetch_weights", "prepare", "tokenizer", "tokenize", "data_card", "pretrain",
    "evaluate", "report",
)  # fmt: skip


# Those of finetuning/dvc.yaml, of each recipe.
RECIPE_STAGES = ("finetune_inputs", "finetune_data", "finetune", "evaluate_finetuned", "report_finetuned")


def run_name() -> str:
    """Return the name of a run that makes a model: which one, of what, and when it began."""
    try:
        params = load_params()
    except UserError:  # which the run will say
        return f"pretrain {_now()}"
    sources = [source.name for source in params.fetch.sources]
    more = f" and {len(sources) - 2} more" if len(sources) > 2 else ""
    return f"{params.base.name} on {', '.join(sources[:2])}{more}, {_now()}"


@flow(name="pretrain", flow_run_name=run_name, persist_result=False)
def pretrain(accept_data: bool = False, deadline_minutes: float | None = None) -> dict[str, Any] | State:
    """Make the model of the project in the current folder and register it; return what `gpt register` said.

    `accept_data` first writes the hashes of sources that have changed into params.yaml. At the deadline the stage that runs is told
    to stop, and saves: the next run goes on.
    """
    guard_output()  # a deployed flow begins here
    deadline = None if deadline_minutes is None else _began() + 60 * deadline_minutes
    with workspace.living(flow_run.id):
        try:
            with workspace.alone(get_run_logger().warning, deadline):
                if accept_data and not (state := accept(deadline, return_state=True)).is_completed():
                    return same_failure(state)
                return _pretrain(deadline)
        except TimeoutError as reason:  # while it waited
            return timed_out(str(reason))


def _pretrain(deadline: float | None) -> dict[str, Any] | State:
    try:
        check_project(Path.cwd())  # what `gpt register` would refuse after days of training
    except UserError as error:
        return Failed(message=str(error), data=StageError("register", str(error), exit_code=2))
    for name in STAGES:
        state = run_stage(name, deadline=deadline, return_state=True)
        if not state.is_completed():
            return same_failure(state)
    state = register(deadline=deadline, return_state=True)
    if not state.is_completed():
        return same_failure(state)
    registered: Any = state.result()
    publish(registered)
    return registered


@task(name="accept data", task_run_name="accept data", cache_policy=NO_CACHE, persist_result=False)
@says_what_stopped_it
def accept(deadline: float | None) -> State:
    """Write the hashes and commits of sources that have changed into params.yaml: `gpt data hash`."""
    exit_code, said = run_logged([GPT, "data", "hash"], deadline)
    if exit_code != 0:
        return Failed(message=str(error := explain("accept data", exit_code, said)), data=error)
    return Completed(message=said[-1] if said else "Nothing changed")


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
@says_what_stopped_it
def register(recipe: str | None = None, deadline: float | None = None) -> State:
    """Register the evaluated model, or a recipe's, as the candidate; carry the JSON object that `gpt register` ends with."""
    command = ["register"] if recipe is None else ["finetune", "register", recipe]
    exit_code, said = run_logged([GPT, *command, "--json"], deadline)
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
            return same_failure(state)
    state = register(recipe, return_state=True)
    if not state.is_completed():
        return same_failure(state)
    registered: Any = state.result()
    return {"figures": read_json(places.metrics, "run `gpt finetune evaluate`")["test"], "registered": registered}


def _began() -> float:
    """Return when the flow run first began, in seconds since 1970: one that goes on after a crash has no new deadline."""
    context = FlowRunContext.get()
    began = context.flow_run.start_time if context and context.flow_run else None
    return began.timestamp() if began else time.time()


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
