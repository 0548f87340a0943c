"""A sweep as one page that needs nothing else: parallel coordinates, what mattered, how the trials learned, and a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.files import atomic_file
from gpt.reports.model_page.charts import Bars, draw_bars
from gpt.reports.page import Markup, captioned, escape_text, note, pictures_in_a_row, render, table
from gpt.reports.sweep_pictures import Axis, Line, draw_learning, draw_parallel
from gpt.secrets.hiding import redact
from gpt.sweeps.records import COMPLETE, Records, Trial, best
from gpt.sweeps.settings import Parameter, Sweep, Values
from gpt.sweeps.suggest import study_of
from gpt.sweeps.table import name_of, seconds_text, state_of, value_text

_FEWEST = 4
"Complete trials without which nobody can say which parameter mattered."


def write_page(records: Records, sweep: Sweep) -> Path:
    """Write reports/sweeps/NAME.html, and return its path."""
    path = paths.SWEEP_PAGES / f"{records.name}.html"
    with atomic_file(path) as partial:
        partial.write_text(redact(_page(records, sweep)), encoding="utf-8")
    return path


def importance(sweep: Sweep, settings: Values, trials: Sequence[Trial]) -> dict[str, float]:
    """Return the share of the metric's variance that each parameter explains (fANOVA: Hutter et al. 2014), the largest first.

    Nothing where too few trials are complete, or where there is nothing to compare.
    """
    complete = [trial for trial in trials if trial.state == COMPLETE]
    values = {trial.value for trial in complete}
    if len(complete) < _FEWEST or len(values) < 2 or len(sweep.parameters) < 2:
        return {}
    import optuna

    study = study_of(sweep, settings, complete)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _page(records: Records, sweep: Sweep) -> str:
    trials = records.trials()
    found = best(trials, sweep.direction)
    lines = [_line(sweep, trial, is_best=trial is found) for trial in trials if trial.params]
    sections = {
        "Trials": _table(records, sweep, trials, found) + note(_HOW),
        "What they tried, and what they got": _parallel(sweep, lines),
        "What mattered": _importance(sweep, records.settings(), trials),
        "How they learned": _curves(lines),
        "The sweep": _settings(sweep),
    }
    return render(f"Sweep {records.name}", _facts(sweep, trials, found), sections)


_HOW = (
    "The value of a trial that was pruned is its last validation, in bits per byte. The best one of many is a little lucky:"
    " train it again with another base.seed before you trust a small lead."
)


def _facts(sweep: Sweep, trials: Sequence[Trial], found: Trial | None) -> str:
    counts = {state: sum(trial.state == state for trial in trials) for state in ("complete", "pruned", "failed")}
    facts = [(value_text(found), f"best {sweep.metric}"), (str(found.number), "its trial")] if found else []
    facts += [(str(count), state) for state, count in counts.items() if count]
    facts.append((seconds_text(sum(trial.seconds for trial in trials)), "all trials together"))
    blocks = "".join(f"<div><b>{escape_text(value)}</b>{escape_text(name)}</div>" for value, name in facts)
    return f'<div class="facts">{blocks}</div>\n'


def _table(records: Records, sweep: Sweep, trials: Sequence[Trial], found: Trial | None) -> str:
    names = [name_of(key, sweep.parameters) for key in sweep.parameters]
    rows = [
        [
            Markup(f"<b>{trial.number}</b>") if trial is found else str(trial.number),
            state_of(records, trial) + (", best" if trial is found else ""),
            *(str(trial.params.get(key, "")) for key in sweep.parameters),
            value_text(trial),
            str(trial.step()),
            seconds_text(trial.seconds),
            trial.reason,
        ]
        for trial in trials
    ]
    return table(["trial", "state", *names, sweep.metric, "steps", "time", "why it ended"], rows)


def _line(sweep: Sweep, trial: Trial, *, is_best: bool) -> Line:
    places = [
        _label(trial.params[key]) if parameter.values is not None else trial.params[key]
        for key, parameter in sweep.parameters.items()
    ]
    is_complete = trial.state == COMPLETE
    return Line([*places, trial.value if is_complete else None], trial.curve, is_complete, is_best)


def _parallel(sweep: Sweep, lines: Sequence[Line]) -> str:
    if not lines:
        return note("No trial has begun.")
    axes = [
        Axis(name_of(key, sweep.parameters), _choices(parameter, [line.places[place] for line in lines]), parameter.log)
        for place, (key, parameter) in enumerate(sweep.parameters.items())
    ]
    picture = draw_parallel([*axes, Axis(sweep.metric)], lines)
    told = captioned(picture, "Parallel coordinates", "A line is a trial; its value stands on the last axis.")
    return f"<figure>{told}</figure>\n"


def _choices(parameter: Parameter, drawn: Sequence[Any]) -> list[str]:
    """Return the values of an axis in the order of the file, by the labels that the trials have; [] of a range."""
    # A 1 of the file may be 1.0 in a trial, as its key holds such a number.
    labels = {_label(wanted): _label(float(wanted)) for wanted in parameter.values or () if isinstance(wanted, int)}
    wanted = [_label(value) for value in parameter.values or ()]
    return [label if label in drawn or labels.get(label) not in drawn else labels[label] for label in wanted]


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _importance(sweep: Sweep, settings: Values, trials: Sequence[Trial]) -> str:
    shares = importance(sweep, settings, trials)
    if not shares:
        return note(
            f"Told for two parameters and more, once {_FEWEST} trials with different values are complete: before that it would"
            " be chance."
        )
    names = [name_of(key, sweep.parameters) for key in shares]
    picture = draw_bars(
        names, [Bars("share of the metric's variance", list(shares.values()))], "importance of the parameters",
        "share of the variance", most=1.0,
    )  # fmt: skip
    text = "fANOVA over the complete trials; pruned ones are left out."
    return pictures_in_a_row(captioned(picture, "Importance", text))


def _curves(lines: Sequence[Line]) -> str:
    picture = draw_learning(lines, "bits per byte (validation)")
    return f"<figure>{picture}</figure>\n" if picture else note("None of them was validated yet.")


def _settings(sweep: Sweep) -> str:
    values = sweep.model_dump(mode="json", exclude_defaults=True)
    rows = [[name, values[name]] for name in ("method", "trials", "seed", "metric", "direction")]
    rows += [[f"parameters: {key}", json.dumps(value)] for key, value in values["parameters"].items()]
    rows += [[f"overrides: {key}", json.dumps(value, default=str)] for key, value in values["overrides"].items()]
    rows.append(["pruner", json.dumps(values["pruner"])])
    return table(["", ""], [[name, str(value)] for name, value in rows])
