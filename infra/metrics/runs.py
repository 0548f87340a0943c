"""What runs have told (flows/upkeep/journals.py), as metrics: of those that live, and of the one that told last."""

import time
from contextlib import suppress
from statistics import median

from flows.upkeep.journals import Run, Spool
from gpt.locks import is_locked
from gpt.paths import CHECKPOINTS, SPOOL
from gpt.tracking.spool import is_delivered, read_event, read_state
from infra.metrics.page import Page

STATES = {"FINISHED": "finished", "KILLED": "stopped", "FAILED": "failed"}
"By the status with which a journal ends; one that lives is running, and one that does neither is dead."
_MEGA = 1e6
# What a row's charts are called here, and their unit in ours.
_VALUES = {
    "train/loss": ("gpt_training_loss", 1.0),
    "train/learning_rate": ("gpt_training_learning_rate", 1.0),
    "train/gradient_norm": ("gpt_training_gradient_norm", 1.0),
    "system/tokens_per_second": ("gpt_training_tokens_per_second", 1.0),
    "system/mfu": ("gpt_training_mfu_ratio", 1.0),
    "system/peak_memory_megabytes": ("gpt_training_peak_memory_bytes", _MEGA),
    "validation/loss": ("gpt_training_validation_loss", 1.0),
    "validation/bits_per_byte": ("gpt_training_validation_bpb", 1.0),
}
# Told once there are some: before that there were none.
_COUNTS = {"train/skipped_steps": "gpt_training_skipped_steps", "train/rollbacks": "gpt_training_rollbacks"}


def add_runs(page: Page, spool: Spool) -> list[Run]:
    """Add what runs have told, and return those that were added."""
    runs = spool.look()
    page.add("gpt_trainers", sum(is_locked(lock) for lock in CHECKPOINTS.glob("*/lock")))
    for run in runs:
        _add_run(page, run)
    return runs


def add_waiting(page: Page) -> None:
    """Add how much of the journals the tracking server has not got, and for how long."""
    waiting, oldest = 0, time.time()
    for journal in SPOOL.glob("*.jsonl"):
        with suppress(FileNotFoundError):  # delivered meanwhile
            if is_delivered(journal):
                continue
            offset = read_state(journal).offset
            event = read_event(journal, offset) or {}
            waiting += journal.stat().st_size - offset
            oldest = min(oldest, event.get("time_ms", time.time() * 1000) / 1000)
    page.add("gpt_spool_undelivered_bytes", waiting)
    page.add("gpt_spool_waiting_seconds", max(0.0, time.time() - oldest) if waiting else 0)


def _add_run(page: Page, run: Run) -> None:
    labels = run.experiment, run.name
    began = run.lives_since()
    state = "running" if began else STATES.get(run.status, "dead")
    for name in ("running", *STATES.values(), "dead"):
        page.add("gpt_training_state", name == state, *labels, name)
    page.add("gpt_training_step", run.step, *labels)
    page.add("gpt_training_max_steps", run.settings.get("train.max_steps"), *labels)
    page.add("gpt_checkpoint_interval_steps", run.settings.get("train.checkpoint_interval"), *labels)
    # A trainer that reads its data has not told that it goes on: what was told before says nothing of it.
    page.add("gpt_training_last_step_age_seconds", run.silence_seconds(), *labels)
    page.add("gpt_training_longest_silence_seconds", max(run.silences, default=None), *labels)
    page.add("gpt_training_step_seconds", median(run.step_seconds) if run.step_seconds else None, *labels)
    page.add("gpt_training_repeated_steps", run.repeated_steps, *labels)
    page.add("gpt_training_validation_step", run.steps.get("validation"), *labels)
    values = {chart: value for row in run.rows.values() for chart, value in row.items()}
    for chart, (name, unit) in _VALUES.items():
        if chart in values:
            page.add(name, values[chart] * unit, *labels)
    for chart, name in _COUNTS.items():
        page.add(name, values.get(chart, 0), *labels)
