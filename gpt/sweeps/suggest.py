"""Which values a trial tries: a function of the sweep's file, the trial's number and the trials before it, and of nothing else.

Grid and random ask nothing of the others but not to be tried twice, so that trial k is the same whoever runs when. The tree-
structured Parzen estimator (tpe: Bergstra et al. 2011, Optuna's) learns from what has ended when it is asked, which with several
workers depends on their pace; of trials that still run it supposes that they turn out badly (constant liar), which keeps workers
apart. What was suggested once is written down and stays.
"""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpt.params.project import PARAMS_FILE, parse_values
from gpt.sweeps.records import COMPLETE, PRUNED, RUNNING, Trial
from gpt.sweeps.settings import Parameter, Sweep, Values, as_key_holds, changed, is_allowed

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_DRAWS, _ASKED = 1000, 50
"After so many that were tried before, or that params.yaml does not take, there are none left; the first ones of tpe's own choice."
_DIGITS = 4
"Of what is drawn: as many as a person would write."
_STARTUP = 10
"Random trials before tpe has something to learn from, or a third of all if that is less."


def suggest(sweep: Sweep, settings: Values, number: int, earlier: Sequence[Trial]) -> Values | None:
    """Return the values of trial `number` (from 1), by keys of params.yaml; None if all that there are have been tried.

    `settings` are those of params.yaml, into which they must fit; `earlier` are the trials with lower numbers.
    """
    tried = {identity(trial.params) for trial in earlier}
    for values in _candidates(sweep, settings, number, earlier):
        if identity(values) not in tried and is_allowed(changed(settings, sweep.settings_of(values))):
            return values
    return None


def check_possible(sweep: Sweep, settings: Values) -> None:
    """Raise `UserError` if there are no values that go together in params.yaml."""
    if suggest(sweep, settings, 1, ()) is None:
        first = next(_candidates(sweep, settings, 1, ()))
        parse_values(PARAMS_FILE, changed(settings, sweep.settings_of(first)))  # says what is wrong with one of them


def count_trials(sweep: Sweep, settings: Values) -> int:
    """Return how many trials a sweep has at the most."""
    if sweep.method != "grid":
        return sweep.trials
    count = sum(1 for values in _grid(sweep, settings) if is_allowed(changed(settings, sweep.settings_of(values))))
    return min(sweep.trials or count, count)


def identity(values: Mapping[str, Any]) -> str:
    """Return a text that is the same for the same values."""
    return json.dumps(values, sort_keys=True, default=str)


def _candidates(sweep: Sweep, settings: Values, number: int, earlier: Sequence[Trial]) -> Iterator[Values]:
    """Yield values to try, the best choice first."""
    if sweep.method == "grid":
        yield from _grid(sweep, settings)
        return
    startup = min(_STARTUP, math.ceil(sweep.trials / 3))
    learns = sweep.method == "tpe" and sum(trial.state in (COMPLETE, PRUNED) for trial in earlier) >= startup
    for attempt in range(_DRAWS):
        if learns and attempt < _ASKED:  # then there may be nothing new near what it likes
            yield _ask(sweep, settings, _seed(sweep.seed, number, attempt), earlier)
        else:
            yield _draw(sweep, settings, random.Random(_seed(sweep.seed, number, attempt)))


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def _grid(sweep: Sweep, settings: Values) -> Iterator[Values]:
    columns = [_steps(parameter, value_at(settings, key)) for key, parameter in sweep.parameters.items()]
    for row in itertools.product(*columns):
        yield dict(zip(sweep.parameters, row, strict=True))


def _steps(parameter: Parameter, now: Any) -> list[Any]:
    """Return all values of a parameter that has `values` or a step."""
    if parameter.values is not None:
        return [as_key_holds(value, now) for value in parameter.values]
    assert parameter.low is not None and parameter.high is not None and parameter.step is not None
    count = math.floor((parameter.high - parameter.low) / parameter.step * (1 + 1e-9)) + 1
    return [_number(parameter, now, parameter.low + place * parameter.step) for place in range(count)]


def _draw(sweep: Sweep, settings: Values, source: random.Random) -> Values:
    drawn: Values = {}
    for key, parameter in sweep.parameters.items():
        now = value_at(settings, key)
        if parameter.values is not None or parameter.step is not None:
            drawn[key] = source.choice(_steps(parameter, now))
            continue
        assert parameter.low is not None and parameter.high is not None
        if _is_whole(parameter, now) and not parameter.log:
            drawn[key] = source.randint(int(parameter.low), int(parameter.high))
        elif parameter.log:
            value = math.exp(source.uniform(math.log(parameter.low), math.log(parameter.high)))
            drawn[key] = _number(parameter, now, value)
        else:
            drawn[key] = _number(parameter, now, source.uniform(parameter.low, parameter.high))
    return drawn


def _ask(sweep: Sweep, settings: Values, seed: int, earlier: Sequence[Trial]) -> Values:
    """Return what Optuna's estimator would try after the trials so far."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
    study = study_of(sweep, settings, earlier, sampler)
    asked = study.ask(distributions_of(sweep, settings)).params
    return {key: _value(sweep, settings, key, asked[key]) for key in sweep.parameters}


def study_of(
    sweep: Sweep, settings: Values, trials: Sequence[Trial], sampler: "optuna.samplers.BaseSampler | None" = None
) -> "optuna.Study":
    """Return a sweep as Optuna knows one, in memory: trials with a value, pruned ones with their curves, and those that run."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, RUNNING: TrialState.RUNNING}
    study = optuna.create_study(direction=sweep.direction, sampler=sampler)
    distributions = distributions_of(sweep, settings)
    for trial in trials:
        if trial.state in states:
            values = {key: _label(sweep.parameters[key], value) for key, value in trial.params.items()}
            # Pruning looks at validation, whatever the metric: where that is better the higher, the sign says so.
            sign = 1 if sweep.direction == "minimize" else -1
            study.add_trial(
                create_trial(
                    state=states[trial.state],
                    params=values,
                    distributions=distributions,
                    value=trial.value if trial.state == COMPLETE else None,
                    intermediate_values={step: sign * value for step, value in trial.curve},
                )
            )
    return study


def distributions_of(sweep: Sweep, settings: Values) -> "dict[str, BaseDistribution]":
    """Return the parameters as Optuna names them. What is one of several is so by the JSON of its values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, parameter in sweep.parameters.items():
        if parameter.values is not None:
            choices = [_label(parameter, value) for value in _steps(parameter, value_at(settings, key))]
            found[key] = CategoricalDistribution(choices)
            continue
        assert parameter.low is not None and parameter.high is not None
        if _is_whole(parameter, value_at(settings, key)):
            step = int(parameter.step or 1)
            found[key] = IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
        else:
            found[key] = FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return found


def _label(parameter: Parameter, value: Any) -> Any:
    return json.dumps(value, default=str) if parameter.values is not None else value


def _value(sweep: Sweep, settings: Values, key: str, asked: Any) -> Any:
    parameter, now = sweep.parameters[key], value_at(settings, key)
    if parameter.values is not None:
        return next(value for value in _steps(parameter, now) if _label(parameter, value) == asked)
    return _number(parameter, now, asked)


def _number(parameter: Parameter, now: Any, value: float) -> float | int:
    """Return a number of a range as params.yaml would have it: whole, or with a few digits, and never outside."""
    assert parameter.low is not None and parameter.high is not None
    if _is_whole(parameter, now):
        return min(max(round(value), int(parameter.low)), int(parameter.high))
    digits = _DIGITS if parameter.step is None else 10
    return float(min(max(float(f"{value:.{digits}g}"), parameter.low), parameter.high))


def _is_whole(parameter: Parameter, now: Any) -> bool:
    numbers = [parameter.low, parameter.high, 0 if parameter.step is None else parameter.step]
    return all(isinstance(number, int) for number in numbers) and not isinstance(now, float)


def value_at(settings: Values, key: str) -> Any:
    """Return what params.yaml says for a key."""
    value: Any = settings
    for name in key.split("."):
        value = value[name]
    return value
