"""Flows of one command, and the end of a run at its deadline: real Prefect, and a `gpt` that says what a test lets it say."""

import json

import pytest

from tests.flows.conftest import ENDLESS, Api, Project
from tests.flows.test_pretrain import artifacts, last_flow_run, task_states

CALL = """
import sys, json
from flows.{module} import {flow}
state = {flow}(**json.loads(sys.argv[1]), return_state=True)
result = state.result(raise_on_failure=False)
print(json.dumps([state.name, state.message, getattr(result, "exit_code", 0)]))
"""


def call(project: Project, module: str, flow: str, **parameters: object) -> tuple[str, str, int]:
    """Run a flow as a worker does, without a command around it; return its state's name and message, and its exit code."""
    done = project.run("-c", CALL.format(module=module, flow=flow), json.dumps(parameters))
    assert done.returncode == 0, done.stderr
    name, message, exit_code = json.loads(done.stdout.splitlines()[-1])
    return name, message, exit_code


def test_a_promotion_that_the_gate_refuses_is_a_finished_run_that_says_so(project: Project, api: Api) -> None:
    said = "tiny version 3 is not promoted to champion (it stays version 2)"
    check = "assert sys.argv[2:] == ['--name=tiny'], sys.argv"
    project.break_stage("promote", f"{check}\nprint('{said}')\nprint('  figures')\nsys.exit(1)")
    assert call(project, "operations", "promote", name="tiny")[0] == "Completed"
    run = last_flow_run(api)
    assert run["name"] == "promote tiny"
    assert task_states(api, run) == {"promote": "Refused"}
    assert f"{said}\n  figures" in artifacts(api, run)["decision"]["data"]


@pytest.mark.slow
def test_a_rollback_passes_its_reason_on_whatever_is_in_it(project: Project, api: Api) -> None:
    reason = "--name=other; $(touch hacked) 'quoted'"
    check = f"assert sys.argv[2:] == ['4', {'--reason=' + reason!r}], sys.argv"
    project.break_stage(
        "rollback", f"{check}\nprint('tiny version 4 is the champion again (it was version 5)')\nsys.exit()"
    )
    assert call(project, "operations", "rollback", version=4, reason=reason)[0] == "Completed"
    assert task_states(api, last_flow_run(api)) == {"rollback": "Decided"}
    assert not (project.root / "hacked").exists()


@pytest.mark.slow
@pytest.mark.parametrize("exit_code", [1, 2])
def test_what_cannot_be_judged_is_a_failure(project: Project, exit_code: int) -> None:
    project.break_stage("promote", f"print('error: no candidate', file=sys.stderr)\nsys.exit({exit_code})")
    assert call(project, "operations", "promote") == ("Failed", "promote: no candidate", exit_code)


@pytest.mark.slow
def test_a_sweep_goes_on_and_shows_its_table_and_gc_removes_only_what_it_is_told_to(project: Project, api: Api) -> None:
    project.break_stage("sweep", "print(sys.argv[2:])\nprint('trial 3 is best')\nsys.exit()")
    assert call(project, "operations", "sweep", name="rates", workers=2)[0] == "Completed"
    run = last_flow_run(api)
    assert run["name"] == "sweep rates"
    assert artifacts(api, run)["sweep"]["data"] == "```text\n['show', 'rates']\ntrial 3 is best\n```"
    project.break_stage("gc", "print(sys.argv[2:])\nsys.exit()")
    assert call(project, "operations", "gc")[0] == "Completed"
    assert "['--keep-days=30', '--keep-versions=5']" in artifacts(api, last_flow_run(api))["gc"]["data"]
    assert call(project, "operations", "gc", apply=True, keep_days=7)[0] == "Completed"
    assert "['--keep-days=7', '--keep-versions=5', '--apply']" in artifacts(api, last_flow_run(api))["gc"]["data"]


@pytest.mark.slow
def test_at_its_deadline_a_stage_saves_and_the_next_run_goes_on(project: Project, api: Api) -> None:
    project.break_stage(
        "fetch", ENDLESS.replace('Path("saved").touch()', 'Path("saved").touch(); print("saved at step 7")')
    )
    name, message, exit_code = call(project, "pipeline", "pretrain", deadline_minutes=0.5)
    assert (name, exit_code) == ("TimedOut", 1)
    assert message == "stopped at its deadline: saved at step 7; the next run goes on"
    assert (project.root / "saved").exists()
    assert task_states(api, last_flow_run(api)) == {"inputs": "Completed", "fetch": "Stopped"}
    (project.root / "fetch.broken").unlink()
    assert call(project, "pipeline", "pretrain")[0] == "Completed"


@pytest.mark.slow
def test_a_training_that_is_killed_from_outside_is_tried_again(project: Project, api: Api) -> None:
    once = 'import signal\nif not Path("killed").exists():\n    Path("killed").touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n'
    project.break_stage("pretrain", once)
    assert call(project, "pipeline", "pretrain")[0] == "Completed"
    assert (project.root / "killed").exists()
    run = last_flow_run(api)
    assert task_states(api, run)["pretrain"] == "Completed"
