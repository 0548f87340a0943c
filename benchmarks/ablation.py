"""What every choice of the model and its training brings: `python -m benchmarks.ablation TEXT`, half an hour on two cores.

One choice at a time is changed in a recipe; every variant has the same seconds on this machine, so a cheaper step buys more
steps. Scored is a slice of the training part (benchmarks/quality.py), the median of three seeds.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import Run, Split, read_recipe, read_split, train
from gpt.processes.machine import keep_freed_memory

_BASE: dict[str, Any] = {"batch_size": 8, "norm": "rmsnorm"}
_STEPS, _SEEDS = 500, (1, 2, 3)
_VARIANTS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "LayerNorm": {"norm": "layernorm"},
    "GELU": {"activation": "gelu"},
    "SwiGLU": {"activation": "swiglu"},
    "no QK-norm": {"qk_norm": False},
    "two of four key and value heads": {"n_kv_head": 2},
    "one of four key and value heads": {"n_kv_head": 1},
    "learned positions": {"position": "learned"},
    "sinusoidal positions": {"position": "sinusoidal"},
    "tied head": {"tie_embeddings": True},
    "biases": {"bias": True},
    "GPT-2's initialisation": {"init": "gpt2"},
    "cosine": {"schedule": "cosine"},
    "warm-up of 5 %": {"warmup_fraction": 0.05},
    "gradients clipped at 1": {"grad_clip": 1.0},
    "dropout of 0.1": {"dropout": 0.1},
    "AdamW, rate 0.003": {"optimizer": "adamw", "learning_rate": 0.003},
    "AdamW, rate 0.006": {"optimizer": "adamw", "learning_rate": 0.006},
}


def measure(text: Path) -> list[str]:
    """Return a markdown table of the variants."""
    whole = read_split(text)
    training, scored = np.split(whole.training, [int(0.9 * len(whole.training))])
    split = dataclasses.replace(whole, training=training, scored=scored)
    times = _step_times(split)
    base = times["the recipe"]
    rows = [
        "| changed | time of a step | steps | nats per character, median (all) | difference |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    reference = 0.0
    for variant, changes in _VARIANTS.items():
        steps = round(_STEPS * base / times[variant])
        losses = [train(read_recipe("long", s, **(_BASE | changes), max_steps=steps), split)["loss"] for s in _SEEDS]
        median = statistics.median(losses)
        reference = reference or median
        shown = ", ".join(f"{loss:.3f}" for loss in losses)
        rows.append(
            f"| {variant} | {times[variant] / base:.2f} × | {steps} | {median:.3f} ({shown}) | {median - reference:+.3f} |"
        )
        print(rows[-1], flush=True)
    return rows


def _step_times(split: Split, rounds: int = 40) -> dict[str, float]:
    """Return the median seconds of a step; the variants take turns."""
    keep_freed_memory()
    runs = {variant: Run(read_recipe("long", 1, **(_BASE | changes)), split) for variant, changes in _VARIANTS.items()}
    seconds: dict[str, list[float]] = {variant: [] for variant in runs}
    for number in range(rounds):
        for variant, run in runs.items():
            begun = time.perf_counter()
            run.step(number)
            seconds[variant].append(time.perf_counter() - begun)
    return {variant: statistics.median(times[5:]) for variant, times in seconds.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        print("usage: python -m benchmarks.ablation TEXT, a file of about a million characters", file=sys.stderr)
        sys.exit(2)
    print("\n".join(measure(Path(sys.argv[1]))))
