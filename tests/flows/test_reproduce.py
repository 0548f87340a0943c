"""`python -m flows.reproduce` as a user meets it: real Prefect, and a `gpt reproduce` that says what a test lets it say."""

import json

import pytest

from tests.flows.conftest import Api, Project
from tests.flows.test_pretrain import artifacts, last_flow_run

FLOW = ("-m", "flows.reproduce")
VERDICT = {
    "model": "models:/tiny/1", "time": "2026-11-26T20:00:00.000000Z", "host": "a machine", "weights_sha256": "5f8c",
    "first": "", "details": [], "reasons": [], "pages": [], "identical": True,
}  # fmt: skip
DIFFERS = VERDICT | {
    "first": "weights", "details": ["the runs part between step 4 and step 8"], "reasons": ["package ftfy: was 6, is 7"],
    "identical": False,
}  # fmt: skip


def says(project: Project, verdict: dict[str, object], exit_code: int) -> None:
    """Let `gpt reproduce` check what it is asked and end with a verdict, as the real one does."""
    code = f"assert sys.argv[2:] == ['models:/tiny/1', '--json'], sys.argv\nprint('comparing')\nprint({json.dumps(verdict)!r})\n"
    project.break_stage("reproduce", f"{code}sys.exit({exit_code})")


def test_a_version_that_is_identical_is_a_completed_run_with_its_verdict(project: Project, api: Api) -> None:
    says(project, VERDICT, 0)
    done = project.run(*FLOW, "models:/tiny/1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "models:/tiny/1: identical, weights 5f8c"
    run = last_flow_run(api)
    assert (run["state"]["name"], run["parameters"]) == ("Completed", {"model": "models:/tiny/1"})
    assert "**models:/tiny/1: identical**" in artifacts(api, run)["reproduced"]["data"]


@pytest.mark.slow
def test_a_version_that_differs_is_a_failed_run_that_says_what_and_why(project: Project, api: Api) -> None:
    says(project, DIFFERS, 1)
    done = project.run(*FLOW, "models:/tiny/1")
    assert done.returncode == 1
    assert "error: reproduce: models:/tiny/1: differs, first in: weights" in done.stderr
    run = last_flow_run(api)
    assert run["state"]["name"] == "Failed"
    shown = artifacts(api, run)["reproduced"]["data"]
    assert "- the runs part between step 4 and step 8" in shown
    assert "- package ftfy: was 6, is 7" in shown


@pytest.mark.slow
@pytest.mark.parametrize("exit_code", [1, 2])
def test_what_cannot_be_made_again_is_its_own_message(project: Project, exit_code: int) -> None:
    project.break_stage("reproduce", f"print('error: no such version', file=sys.stderr)\nsys.exit({exit_code})")
    done = project.run(*FLOW, "models:/tiny/1")
    assert done.returncode == exit_code
    assert "error: reproduce: no such version" in done.stderr
    assert "Traceback" not in done.stderr
