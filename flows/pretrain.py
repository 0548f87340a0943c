"""Make and register the model of params.yaml: `python -m flows.pretrain`. The flow itself is in flows/pipeline.py.

Prefect is imported inside: params.yaml is judged before it, and an embedded server starts beside its imports.
"""

import signal
import sys
from pathlib import Path
from typing import Any

from flows.keeping import how_to_keep
from flows.server import ensure_api
from gpt import paths
from gpt.entry import begin, end_with, tell
from gpt.files import read_json
from gpt.git import check_repository
from gpt.params.project import load_params
from gpt.paths import ensure_user, enter_project
from gpt.tracking.pages.markdown import align, benchmark_rows
from gpt.tracking.store import tracking_uri

_SAMPLE_CHARACTERS = 300


def main() -> int:
    """Run the flow and say what came of it; return 0 done, 1 failed, 2 the user must change something."""
    begin()
    return end_with(_pretrain)


def _pretrain() -> int:
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
        from flows.pipeline import pretrain

        state = pretrain(return_state=True)
    except KeyboardInterrupt:
        print("interrupted; run it again to go on from the last checkpoint", file=sys.stderr)
        return 130
    result: Any = state.result(raise_on_failure=False)
    if not state.is_completed():
        tell(str(result))
        return 2 if getattr(result, "exit_code", 1) == 2 else 1
    print(summary(result), flush=True)
    return 0


def summary(registered: dict[str, Any]) -> str:
    """Say in a few lines how good the model is, how it writes, where it is, what to do next and how to keep it."""
    evaluation = read_json(paths.EVALUATE_METRICS, "run `gpt evaluate`")
    test, (head, scores) = evaluation["test"], benchmark_rows(evaluation)
    sample = read_json(paths.SAMPLES, "run `gpt evaluate`")[0]
    text = f"{sample['prompt']}│{sample['completion']}".strip()
    shown = text if len(text) <= _SAMPLE_CHARACTERS else text[: _SAMPLE_CHARACTERS - 1] + "…"
    alias = registered["alias"]
    role = f"alias {alias}" if alias else "no alias: it was rolled back, or a newer version is the candidate"
    return "\n".join(
        [
            "",
            f"Held-out text    {test['bits_per_byte']:.4f} bits per byte, perplexity {test['perplexity']:.2f}",
            *(["Benchmarks", *(f"    {line}" for line in align(head, scores))] if scores else []),
            "A sample         (the prompt ends at │)",
            *(f"    {line}" for line in shown.splitlines()),
            f"Registered       models:/{registered['name']}/{registered['version']} ({role})",
            f"All on one page  {paths.REPORTS / 'index.html'}",
            "What next        make ui                          see the runs and the model",
            "                 gpt promote                      make it the champion if it beats the last one",
            '                 gpt generate "To be, or not"     let it write',
            *how_to_keep(Path.cwd()),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
