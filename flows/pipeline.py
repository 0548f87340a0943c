"""The flow: every stage of dvc.yaml through DVC, then the registry, then what a person wants to see in Prefect's UI.

It has no parameters: whatever changes a result is in params.yaml.
"""

import json
import sys
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from flows.artifacts import publish
from flows.stages import StageError, explain, run_logged, run_stage
from gpt.errors import UserError
from gpt.registry.disclosure import check_project
from gpt.secrets.hiding import guard_output

# The stages of dvc.yaml, in an order in which each comes after what it depends on.
STAGES = (
    "inputs", "fetch", "fetch_benchmarks", "fetch_weights", "prepare", "tokenizer", "tokenize", "data_card", "pretrain",
    "evaluate", "report",
)  # fmt: skip


@flow(name="pretrain", persist_result=False)
def pretrain() -> dict[str, Any] | State:
    """Make the model of the project in the current folder and register it; return what `gpt register` said."""
    guard_output()  # a deployed flow begins here
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
def register() -> State:
    """Register the evaluated model as the candidate; carry the JSON object that `gpt register` ends with."""
    exit_code, said = run_logged([str(Path(sys.prefix) / "bin" / "gpt"), "register", "--json"])
    if exit_code != 0:
        return Failed(message=str(error := explain("register", exit_code, said)), data=error)
    return Completed(message="Registered", data=last_object(said))


def last_object(said: list[str]) -> dict[str, Any]:
    """Return the last line that is a JSON object; errors share the pipe and may follow it."""
    for line in reversed(said):
        if line.startswith("{"):
            return json.loads(line)
    raise ValueError("the command printed no JSON object, although --json asks for one")


def _same_failure(state: State) -> State:
    return Failed(message=state.message, data=state.result(raise_on_failure=False))
