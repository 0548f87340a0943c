"""Apply what prefect.yaml describes to the Prefect server at PREFECT_API_URL: `python -m flows.deploy`.

Applied again, it changes nothing but what has changed in the file.
"""

import os
import sys
from pathlib import Path

from flows.server import configured_api, prepare_prefect
from flows.upkeep.automations import apply, check_notify
from gpt.entry import begin, end_with
from gpt.errors import UserError
from gpt.paths import ensure_user, enter_project
from gpt.processes.trees import running
from gpt.tracking.store import tracking_uri

POOL = "gpt"  # as in prefect.yaml
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


def main() -> int:
    """Deploy to the configured server; return 0, or the exit code of what failed."""
    begin()
    return end_with(_main)


def _main() -> int:
    enter_project()
    ensure_user()
    check_project()
    prepare_prefect()
    if not configured_api():
        raise UserError("PREFECT_API_URL names no server to deploy to; `make up` starts one, `make schedule` too")
    return deploy()


def check_project() -> None:
    """Raise `UserError` where a deployed flow could not run: no prefect.yaml here, or no address of a store for its runs."""
    if not Path("prefect.yaml").is_file():
        raise UserError(f"prefect.yaml: not found in {Path.cwd()}; run this in the project's folder")
    tracking_uri()
    check_notify()


def deploy() -> int:
    """Create the work pool if it is missing, deploy prefect.yaml and the automations; return the exit code of what failed."""
    os.environ["PWD"] = str(Path.cwd())  # prefect.yaml takes the project's folder from it
    if not _has_pool():
        code, said = _run_prefect("work-pool", "create", POOL, "--type", "process")
        if code != 0 and not _has_pool():  # a worker that starts now may have made it
            return _tell_failure(code, said)
    if code := _tell_failure(*_run_prefect("deploy", "--all")):
        return code
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        notifications = apply(client)
    print(f"deployed what prefect.yaml describes; {notifications}", flush=True)
    return 0


def _has_pool() -> bool:
    return _run_prefect("work-pool", "inspect", POOL)[0] == 0


def _run_prefect(*arguments: str) -> tuple[int, list[str]]:
    """Run a command of Prefect's; return its exit code and what it said, which is of interest only if it fails."""
    said: list[str] = []
    return running.run([*PREFECT, *arguments], cwd=Path.cwd(), on_line=said.append), said


def _tell_failure(code: int, said: list[str]) -> int:
    if code != 0:
        print("\n".join(said), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
