"""What a flow's command does around its flow: checks before Prefect is imported, signals, the exit code."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.server import ensure_api
from gpt.entry import tell
from gpt.git import check_repository
from gpt.params.project import load_params
from gpt.paths import ensure_user, enter_project
from gpt.tracking.store import tracking_uri


def run_flow(start: Callable[[], Any], interrupted: str, describe: Callable[[Any], str]) -> int:
    """Run a flow in the project of the current folder; return 0 done, 1 failed, 2 to change something, 130 interrupted.

    `start` imports the flow, runs it and returns its state; `describe` says what came of it.
    """
    enter_project()
    ensure_user()
    load_params()
    check_repository(Path.cwd())
    tracking_uri()  # that it is an address: models are registered there in the end
    # Prefect records the crash first and then raises the signal again, for this handler; the default would leave no
    # time to deliver the record and to stop what we own.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
    try:
        ensure_api()
        state = start()
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    result: Any = state.result(raise_on_failure=False)
    if not state.is_completed():
        tell(str(result))
        return 2 if getattr(result, "exit_code", 1) == 2 else 1
    print(describe(result), flush=True)
    return 0


def describe_role(registered: dict[str, Any]) -> str:
    """Return which alias a version holds, of what `gpt register --json` said of it."""
    alias = registered["alias"]
    return f"alias {alias}" if alias else "no alias: it was rolled back, or a newer version is the candidate"
