"""Make a registered version again, and compare: `python -m flows.reproduce [models:/NAME/VERSION | @champion]`.

The flow itself is in flows/remaking.py; prefect.yaml deploys it, so that the champion is made again every week.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from flows.server import ensure_api
from gpt.entry import begin, end_with, readable, tell
from gpt.git import check_repository
from gpt.params.project import load_params
from gpt.paths import ensure_user, enter_project
from gpt.tracking.store import tracking_uri


def main(arguments: list[str] | None = None) -> int:
    """Run the flow; return 0 identical, 1 differs or failed, 2 the user must change something."""
    begin()
    parser = argparse.ArgumentParser(prog="python -m flows.reproduce", description="Make a registered version again.")
    parser.add_argument("model", type=readable, nargs="?", default="@champion", help="(default: %(default)s)")
    model = parser.parse_args(arguments).model
    return end_with(lambda: _reproduce(model))


def _reproduce(model: str) -> int:
    enter_project()
    ensure_user()
    load_params()
    check_repository(Path.cwd())
    tracking_uri()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
    try:
        ensure_api()
        from flows.remaking import reproduce

        state = reproduce(model, return_state=True)
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 130
    result: Any = state.result(raise_on_failure=False)
    if not state.is_completed():
        tell(str(result))
        return 2 if getattr(result, "exit_code", 1) == 2 else 1
    print(f"{result['model']}: identical, weights {result['weights_sha256']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
