"""The flow that makes a registered version again and compares it: the work is `gpt reproduce`'s, Prefect records the verdict."""

import sys
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from flows.pipeline import last_object
from flows.stages import StageError, explain, run_logged
from gpt.secrets.hiding import guard_output

_DIFFERS = 1  # the exit code, if a verdict was printed


@flow(name="reproduce", persist_result=False)
def reproduce(model: str = "@champion") -> dict[str, Any] | State:
    """Make a version again from its record and return the verdict; a version that differs is a failed run."""
    guard_output()  # a deployed flow begins here
    state = make_again(model, return_state=True)
    result: Any = state.result(raise_on_failure=False)
    return result if state.is_completed() else Failed(message=state.message, data=result)


@task(name="make again", task_run_name="{model}", cache_policy=NO_CACHE, persist_result=False)
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
