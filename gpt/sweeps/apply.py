"""A trial's settings into params.yaml, in the lines where they stand: comments and all else stay as they are."""

from pathlib import Path
from typing import Any

from gpt.errors import UserError
from gpt.files import parse_yaml
from gpt.params.changes.editing import write_text
from gpt.params.project import PARAMS_FILE
from gpt.sweeps.copies import with_values
from gpt.sweeps.records import COMPLETE, Records, Trial, best
from gpt.sweeps.settings import Sweep
from gpt.sweeps.suggest import value_at


def apply(records: Records, sweep: Sweep, number: int | None) -> list[str]:
    """Write the best trial's parameters, or those of trial `number`, into params.yaml; return what to tell, line by line.

    The sweep's overrides are not written: they made the trials cheap, and are not what was found. Raises `UserError` if no trial is
    complete, or if params.yaml does not take the values.
    """
    trial = _chosen(records, sweep, number)
    path = Path(PARAMS_FILE)
    text = path.read_text(encoding="utf-8")
    before = parse_yaml(text)
    write_text(path, with_values(text, trial.params))
    changes = [
        f"  {key}: {value_at(before, key)} -> {value}"
        for key, value in trial.params.items()
        if value_at(before, key) != value
    ]
    told = f"trial {trial.number} of {records.name}" + _value(sweep, trial)
    lines = [f"{PARAMS_FILE}: {told}", *changes] if changes else [f"{PARAMS_FILE}: has the settings of {told} already"]
    if sweep.overrides:
        lines.append(f"left as they are, though the trials had others: {_listed(sweep.overrides)}")
    lines += ["next:", "  dvc repro    # trains and evaluates with them"]
    if trial.commit and trial.state == COMPLETE and sweep.evaluates:
        lines.append(
            f"  dvc exp apply {records.experiment(trial.number)}    # or the trial itself, overrides and model too"
        )
    return lines


def _chosen(records: Records, sweep: Sweep, number: int | None) -> Trial:
    if number is not None:
        return records.trial(number)
    found = best(records.trials(), sweep.direction)
    if found is None:
        raise UserError(
            f"sweep {records.name}: has no complete trial yet; `gpt sweep run {records.name}` goes on,"
            f" `gpt sweep show {records.name}` says how far it is"
        )
    return found


def _value(sweep: Sweep, trial: Trial) -> str:
    if trial.state != COMPLETE:
        return f", which is {trial.state}" + (f" ({trial.reason})" if trial.reason else "")
    return f", {sweep.metric} {trial.value:.4f}"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())
