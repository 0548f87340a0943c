"""A sweep for a terminal and as JSON: every trial, what it tried, what came of it and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpt.reports.columns import aligned
from gpt.secrets.hiding import redact, redact_values
from gpt.sweeps.records import ENDED, RUNNING, Records, Trial, best
from gpt.sweeps.settings import Sweep

STOPPED = "stopped"
"Of a trial that runs according to its record, and that no living process holds: it goes on when the sweep is run."
_REASON_CHARACTERS = 70
_VALUE_CHARACTERS = 24


def describe(records: Records, sweep: Sweep) -> str:
    """Return the sweep as text: a line for each trial, then the best one."""
    trials = records.trials()
    found = best(trials, sweep.direction)
    names = [name_of(key, sweep.parameters) for key in sweep.parameters]
    head = ["trial", "state", *names, sweep.metric, "steps", "time", "why"]
    rows = [
        [
            f"{trial.number}{'*' if trial is found else ''}",
            state_of(records, trial),
            *(_short(str(trial.params[key])) for key in sweep.parameters),
            value_text(trial),
            str(trial.step()),
            seconds_text(trial.seconds),
            _short(trial.reason, _REASON_CHARACTERS),
        ]
        for trial in trials
    ]
    numbers = range(2 + len(names), 5 + len(names))
    blocks = [aligned(head, rows, numbers=numbers) if rows else "no trial has begun", _summary(records, sweep, trials)]
    return redact("\n\n".join(blocks))


def to_record(records: Records, sweep: Sweep) -> dict[str, Any]:
    """Return the sweep as JSON values."""
    trials = records.trials()
    found = best(trials, sweep.direction)
    return redact_values({
        "name": records.name,
        "method": sweep.method,
        "metric": sweep.metric,
        "direction": sweep.direction,
        "trials_wanted": sweep.trials,
        "best": found.number if found else None,
        "trials": [
            {
                "trial": trial.number,
                "experiment": records.experiment(trial.number),
                "state": state_of(records, trial),
                "params": trial.params,
                "value": trial.value,
                "steps": trial.step(),
                "seconds": round(trial.seconds, 1),
                "starts": trial.starts,
                "reason": trial.reason,
                "commit": trial.commit or None,
                "run_id": trial.run or None,
                "curve": trial.curve,
            }
            for trial in trials
        ],
    })  # fmt: skip


def state_of(records: Records, trial: Trial) -> str:
    return STOPPED if trial.state == RUNNING and not records.is_held(trial.number) else trial.state


def name_of(key: str, keys: Mapping[str, Any]) -> str:
    """Return a key's last name, the whole key where two end alike."""
    short = key.rpartition(".")[2]
    return key if sum(each.rpartition(".")[2] == short for each in keys) > 1 else short


def value_text(trial: Trial) -> str:
    return "" if trial.value is None else f"{trial.value:.4f}"


def seconds_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def _summary(records: Records, sweep: Sweep, trials: Sequence[Trial]) -> str:
    found = best(list(trials), sweep.direction)
    counts: dict[str, int] = {}
    for trial in trials:
        state = state_of(records, trial)
        counts[state] = counts.get(state, 0) + 1
    lines = [", ".join(f"{count} {state}" for state, count in counts.items())]
    lines += [
        f"the value of a pruned one is its last validation, in bits per byte: {sweep.metric} is not known of it"
    ] * ("pruned" in counts)
    if len(trials) < sweep.trials and all(trial.state in ENDED for trial in trials):
        lines.append(
            f"{len(trials)} of {sweep.trials} trials; if the sweep has ended, there are no further values to try"
        )
    if found:
        lines += [
            f"best*: trial {found.number}, {sweep.metric} {value_text(found)}",
            "next:",
            f"  gpt sweep apply {records.name}    # its settings into params.yaml",
            f"  gpt compare HEAD {records.experiment(found.number)}",
        ]
    if unfinished := sum(count for state, count in counts.items() if state in ("waiting", STOPPED)):
        lines.append(f"{unfinished} go on with `gpt sweep run {records.name}`")
    return "\n".join(line for line in lines if line)


def _short(text: str, most: int = _VALUE_CHARACTERS) -> str:
    text = redact(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
