"""Flows of one command each: make a version again, promote, roll back, sweep, free room. Prefect records what came of it.

What `gpt promote` refuses is a finished run that says so: the gate did its work. What cannot be judged is a failure.
"""

import re
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.stages import GPT, StageError, explain, last_object, run_logged, same_failure, says_what_stopped_it
from flows.upkeep import workspace
from gpt.secrets.hiding import guard_output

_DIFFERS = 1  # the exit code of `gpt reproduce`, if a verdict was printed
_VERDICT = re.compile(r"\S+ version \d+ (is (?P<refused>not )?|has )")


def run_name() -> str:
    """Return the name of a run: what it does, and to which model."""
    given = flow_run.parameters
    return " ".join(
        [flow_run.flow_name or "", *(str(given[key]) for key in ("model", "name", "version") if given.get(key))]
    )


@flow(name="reproduce", flow_run_name=run_name, persist_result=False)
def reproduce(model: str = "@champion") -> dict[str, Any] | State:
    """Make a version again from its record and return the verdict; a version that differs is a failed run."""
    guard_output()  # a deployed flow begins here
    with workspace.living(flow_run.id):
        state = make_again(model, return_state=True)
    if not state.is_completed():
        return same_failure(state)
    verdict: Any = state.result()
    return verdict


@flow(name="promote", flow_run_name=run_name, persist_result=False)
def promote(name: str | None = None) -> str | State:
    """Make the candidate of a registered model the champion if it passes the gate; return what was decided."""
    return _decide("promote", _named(name))


@flow(name="rollback", flow_run_name=run_name, persist_result=False)
def rollback(reason: str, version: int | None = None, name: str | None = None) -> str | State:
    """Make an earlier champion the champion again: the last one before this that exists, or a version; return what was decided."""
    return _decide("rollback", [*([] if version is None else [str(version)]), f"--reason={reason}", *_named(name)])


@flow(name="gc", persist_result=False)
def gc(apply: bool = False, keep_days: float = 30, keep_versions: int = 5) -> str | State:
    """Show what takes room and is not needed, and remove it if `apply`; return what `gpt gc` said."""
    limits = [f"--keep-days={keep_days:g}", f"--keep-versions={keep_versions}"]
    return _tell("gc", ["gc", *limits, *(["--apply"] if apply else [])])


@flow(name="sweep", flow_run_name=run_name, persist_result=False)
def sweep(name: str, workers: int = 1) -> str | State:
    """Run the trials of sweeps/NAME.yaml, or go on with them; return the table of `gpt sweep show`."""
    return _tell("sweep", ["sweep", "run", name, f"--workers={workers}"], then=["sweep", "show", name])


def _tell(title: str, command: list[str], then: list[str] | None = None) -> str | State:
    guard_output()  # a deployed flow begins here
    with workspace.living(flow_run.id):
        state = tell(title, command, then, return_state=True)
    if not state.is_completed():
        return same_failure(state)
    said: Any = state.result()
    return said


def _decide(command: str, arguments: list[str]) -> str | State:
    guard_output()  # a deployed flow begins here
    with workspace.living(flow_run.id):
        state = decide(command, arguments, return_state=True)
    if not state.is_completed():
        return same_failure(state)
    said: Any = state.result()
    return said


def _named(name: str | None) -> list[str]:
    return [] if name is None else [f"--name={name}"]


@task(name="make again", task_run_name="{model}", cache_policy=NO_CACHE, persist_result=False)
@says_what_stopped_it
def make_again(model: str) -> State:
    """Run `gpt reproduce`, which goes on where it was stopped; carry the JSON object that it ends with."""
    command = [GPT, "reproduce", model, "--json"]
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


@task(name="decide", task_run_name="{command}", cache_policy=NO_CACHE, persist_result=False)
@says_what_stopped_it
def decide(command: str, arguments: list[str]) -> State:
    """Run `gpt promote` or `gpt rollback`, and show the decision with its reasons."""
    exit_code, said = run_logged([GPT, command, *arguments])
    verdict, began = next(
        ((found, number) for number, line in enumerate(said) if (found := _VERDICT.match(line))), (None, 0)
    )
    refused = verdict is not None and verdict["refused"] is not None
    if verdict is None or exit_code != refused:  # what is refused ends with 1
        return Failed(message=str(error := explain(command, exit_code, said)), data=error)
    decision = "\n".join(said[began:])
    create_markdown_artifact(key="decision", markdown=f"```text\n{decision}\n```", description=said[began])
    return Completed(name="Refused" if refused else "Decided", message=said[began], data=decision)


@task(name="tell", task_run_name="{title}", cache_policy=NO_CACHE, persist_result=False)
@says_what_stopped_it
def tell(title: str, command: list[str], then: list[str] | None) -> State:
    """Run a command of `gpt`, and perhaps one that shows what came of it; show what the last one said."""
    exit_code, said = run_logged([GPT, *command])
    if exit_code == 0 and then:
        exit_code, said = run_logged([GPT, *then])
    if exit_code != 0:
        return Failed(message=str(error := explain(title, exit_code, said)), data=error)
    text = "\n".join(said)
    create_markdown_artifact(key=title, markdown=f"```text\n{text}\n```")
    return Completed(message=said[-1] if said else "nothing was said", data=text)


def _show(verdict: dict[str, Any], word: str) -> None:
    lines = [f"**{verdict['model']}: {word}**", "", f"weights `{verdict['weights_sha256']}`, on {verdict['host']}", ""]
    lines += [f"- {line}" for line in (*verdict["details"], *verdict["reasons"])]
    create_markdown_artifact(key="reproduced", markdown="\n".join(lines), description=verdict["model"])
