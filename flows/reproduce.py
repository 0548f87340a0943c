"""Make a registered version again, and compare: `python -m flows.reproduce [models:/NAME/VERSION | @champion]`.

The flow itself is in flows/operations.py; prefect.yaml deploys it, so that the champion is made again every week.
"""

import argparse
import sys
from typing import Any

from flows.command import run_flow
from gpt.entry import begin, end_with, readable


def main(arguments: list[str] | None = None) -> int:
    """Run the flow; return 0 identical, 1 differs or failed, 2 the user must change something."""
    begin()
    parser = argparse.ArgumentParser(prog="python -m flows.reproduce", description="Make a registered version again.")
    parser.add_argument("model", type=readable, nargs="?", default="@champion", help="(default: %(default)s)")
    model = parser.parse_args(arguments).model
    return end_with(lambda: _reproduce(model))


def _reproduce(model: str) -> int:
    def start() -> Any:
        from flows.operations import reproduce

        return reproduce(model, return_state=True)

    return run_flow(
        start,
        "interrupted; run it again to go on",
        lambda result: f"{result['model']}: identical, weights {result['weights_sha256']}",
    )


if __name__ == "__main__":
    sys.exit(main())
