"""Make and register the model of params.yaml: `python -m flows.pretrain`. The flow itself is in flows/pipeline.py.

Prefect is imported inside: params.yaml is judged before it, and an embedded server starts beside its imports.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from flows.command import describe_role, run_flow
from flows.keeping import how_to_keep, ui
from gpt import paths
from gpt.entry import begin, end_with
from gpt.files import read_json
from gpt.tracking.pages.markdown import aligned, benchmark_rows

_SAMPLE_CHARACTERS = 300


def main() -> int:
    """Run the flow and say what came of it; return 0 done, 1 failed, 2 the user must change something."""
    begin()
    return end_with(_pretrain)


def _pretrain() -> int:
    return run_flow(_start, "interrupted; run it again to go on from the last checkpoint", summary)


def _start() -> Any:
    from flows.pipeline import pretrain

    return pretrain(return_state=True)


def summary(registered: dict[str, Any]) -> str:
    """Say in a few lines how good the model is, how it writes, where it is, what to do next and how to keep it."""
    evaluation = read_json(paths.EVALUATION, "run `gpt evaluate`")
    test, scores = evaluation["test"], aligned(benchmark_rows(evaluation))
    sample = read_json(paths.SAMPLES, "run `gpt evaluate`")[0]
    text = f"{sample['prompt']}│{sample['completion']}".strip()
    shown = text if len(text) <= _SAMPLE_CHARACTERS else text[: _SAMPLE_CHARACTERS - 1] + "…"
    return "\n".join(
        [
            "",
            f"Held-out text    {test['bits_per_byte']:.4f} bits per byte, perplexity {test['perplexity']:.2f}",
            *(["Benchmarks", *(f"    {line}" for line in scores)] if scores else []),
            "A sample         (the prompt ends at │)",
            *(f"    {line}" for line in shown.splitlines()),
            f"Registered       models:/{registered['name']}/{registered['version']} ({describe_role(registered)})",
            f"All on one page  {paths.REPORTS / 'index.html'}",
            f"What next        {ui():<32} see the runs and the model",
            f"                 {'gpt promote':<32} make it the champion if it beats the last one",
            f"                 {_generate(sample['prompt']):<32} let it write",
            *how_to_keep(Path.cwd()),
        ]
    )


def _generate(prompt: str) -> str:
    """Return the command that continues the beginning of a prompt, in one line."""
    words = " ".join(prompt.split()[:4]) or "Once"
    return f'gpt generate "{words}"' if not set(words) & set('"$`!\\') else f"gpt generate {shlex.quote(words)}"


if __name__ == "__main__":
    sys.exit(main())
