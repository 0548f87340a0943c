"""A sweep's file, sweeps/NAME.yaml: which settings of params.yaml are tried, how, how often, and what makes a trial the best one.

As in params.yaml there are no defaults in code, and whatever is wrong is told before anything runs: also a value that params.yaml
would not take, by trying each one out on it.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from gpt.errors import UserError
from gpt.files import parse_yaml
from gpt.params.changes.overrides import guess_key, known_keys
from gpt.params.project import PARAMS_FILE, Params, explained, load_params, parse_settings
from gpt.params.types import NonNegativeInt, PositiveInt, Section, Text
from gpt.paths import SWEEPS
from gpt.secrets.hiding import redact

CURVES = ("validation_loss", "validation_bits_per_byte")
"Metrics that training itself measures, columns of plots/validation.csv: a trial ends with its training, and evaluates nothing."
_LOWER = ("loss", "bits_per_byte")
_FIGURES = ("test.bits_per_byte", "validation.bits_per_byte", "centred")
_ELSEWHERE = {
    "launch": "says where training runs, and makes no other model",
    "base.name": "is the MLflow experiment, which a sweep has one of",
    "register": "judges models, and makes no other one",
}
Values = dict[str, Any]


class Parameter(Section):
    """Either `values`, or a range from `low` to `high`, of whole numbers if both are and the key holds one."""

    values: Annotated[tuple[Any, ...], Field(strict=False)] | None = None
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    "Whether values are as likely between 0.001 and 0.01 as between 0.01 and 0.1."
    step: float | int | None = None
    "Only low, low + step, …"

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.values is None) == (self.low is None or self.high is None):
            raise ValueError("needs either `values`, a list, or both `low` and `high`")
        if self.values is not None:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("low, high, log and step are of ranges, and it has `values`")
            if not self.values or len({repr(value) for value in self.values}) < len(self.values):
                raise ValueError("`values` must be a list of at least one value, and none twice")
            return self
        assert self.low is not None and self.high is not None
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with log: true, low must be above 0, and there is no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError("step must be above 0 and at most high - low")
        return self


class NoPruner(Section):
    kind: Literal["none"]


class Median(Section):
    """Stops a trial whose best validation so far is worse than the median of the others at that step."""

    kind: Literal["median"]
    startup_trials: PositiveInt
    "So many trials come to their end before any is pruned."
    warmup_steps: NonNegativeInt
    "Optimizer steps that every trial may take."


class SuccessiveHalving(Section):
    """Lets one in `reduction_factor` trials go on at `min_steps`, at `reduction_factor` times as many steps, and so on."""

    kind: Literal["successive_halving"]
    min_steps: PositiveInt
    reduction_factor: Annotated[int, Field(ge=2)]


class Sweep(Section):
    """The file of a sweep."""

    method: Literal["grid", "random", "tpe"]
    trials: NonNegativeInt
    "How many; 0: all combinations of a grid."
    seed: NonNegativeInt
    metric: Text
    "A figure of metrics/evaluate.json, as in validation.bits_per_byte; or one of `CURVES`."
    direction: Literal["minimize", "maximize"]
    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]
    "What is tried, by keys of params.yaml."
    overrides: Values
    "Other values of further keys, for all trials alike."
    pruner: Annotated[NoPruner | Median | SuccessiveHalving, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.method != "grid" and not self.trials:
            raise ValueError(f"trials = 0: means all combinations of a grid; {self.method} needs a number")
        if twice := sorted(self.parameters.keys() & self.overrides.keys()):
            raise ValueError(f"{', '.join(twice)}: is under parameters and under overrides; leave one of them")
        for key, parameter in self.parameters.items():
            if self.method == "grid" and parameter.values is None and parameter.step is None:
                raise ValueError(f"parameters.{key}: a grid needs `values`, or low and high with a step")
        return self

    @property
    def evaluates(self) -> bool:
        """Whether a trial runs all stages of dvc.yaml; it ends with its training if that measures the metric."""
        return self.metric not in CURVES

    def settings_of(self, params: Mapping[str, Any]) -> Values:
        """Return all that a trial changes in params.yaml: its own values and the overrides."""
        return {**self.overrides, **params}


def path_of(name: str) -> Path:
    return SWEEPS / f"{name}.yaml"


def find_sweeps() -> list[str]:
    """Return the names of the project's sweeps."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def load_sweep(name: str, params_path: Path = PARAMS_FILE) -> Sweep:
    """Read sweeps/NAME.yaml and try its values on params.yaml; raise `UserError` for whatever is wrong in one of them."""
    path = path_of(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        others = find_sweeps()
        near = difflib.get_close_matches(name, others, n=1) or others[:1]
        hint = f"did you mean {near[0]}?" if near else "docs/experiments.md shows one to begin with"
        raise UserError(f"{path}: not found; {hint}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    sweep = parse_sweep(path, text)
    load_params(params_path)
    check_on(sweep, path, parse_yaml(params_path.read_text(encoding="utf-8")), known_keys(params_path))
    return sweep


def parse_sweep(path: Path, text: str) -> Sweep:
    """Validate the text of a sweep's file by itself."""
    values = parse_settings(path, text)
    with explained(path):
        return Sweep.model_validate(values)


def check_on(sweep: Sweep, path: Path, settings: Values, known: Mapping[str, Any]) -> None:
    """Raise `UserError` if params.yaml (its parsed `settings`, its `known` keys) could not take the values of a sweep."""
    for group, keys in (("parameters", sweep.parameters), ("overrides", sweep.overrides)):
        for key in keys:
            _check_key(f"{path}: {group}: {key}", key, known)
    base = changed(settings, sweep.overrides)
    with explained(path, lambda key: f"overrides: {key}" if key else ""):
        if sweep.overrides:
            _raise_at(base, sweep.overrides)
    for key, parameter in sweep.parameters.items():
        for value in parameter.values if parameter.values is not None else (parameter.low, parameter.high):
            with explained(path, lambda key: f"parameters: {key}"):
                _raise_at(changed(base, {key: as_key_holds(value, known[key])}), [key])
    _check_metric(sweep, path, base)
    _check_pruner(sweep, path, base)


def changed(settings: Values, changes: Mapping[str, Any]) -> Values:
    """Return nested settings with other values of some keys, as `train.max_steps` names them."""
    settings = dict(settings)
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = settings
        for section in sections:
            inner[section] = dict(inner[section])
            inner = inner[section]
        inner[name] = value
    return settings


def is_allowed(settings: Values) -> bool:
    """Whether params.yaml could be these settings."""
    try:
        Params.model_validate(settings)
    except ValidationError:
        return False
    return True


def as_key_holds(value: Any, now: Any) -> Any:
    """Return a number of a range as the kind of number that its key holds now: a 1 may be meant as 1.0."""
    return float(value) if isinstance(now, float) and isinstance(value, int) and not isinstance(value, bool) else value


def _raise_at(settings: Values, keys: Any) -> None:
    """Raise pydantic's error of these settings if it is about one of `keys`, and not about how values go together."""
    try:
        Params.model_validate(settings)
    except ValidationError as error:
        for fault in error.errors():
            place = ".".join(str(part) for part in fault["loc"])
            if any(place == key or place.startswith(f"{key}.") for key in keys) or _is_inside(place, keys):
                raise


def _is_inside(place: str, keys: Any) -> bool:
    """Whether a fault is below a key in a section of several kinds, where pydantic names the kind in between."""
    section, *rest = place.split(".")
    return len(rest) > 1 and f"{section}.{'.'.join(rest[1:])}" in keys


def _check_key(where: str, key: str, known: Mapping[str, Any]) -> None:
    for begin, reason in _ELSEWHERE.items():
        if key == begin or key.startswith(f"{begin}."):
            raise UserError(f"{where}: {reason}; choose another key")
    if key not in known:
        raise UserError(f"{redact(where)} is not a known key; {guess_key(key, known)}")
    if isinstance(known[key], dict) and known[key]:
        raise UserError(f"{where}: is a section; name one of its keys, such as {key}.{next(iter(known[key]))}")


def _check_metric(sweep: Sweep, path: Path, settings: Values) -> None:
    choices = (*_FIGURES, *settings["evaluate"]["benchmarks"], *CURVES)
    if sweep.metric not in choices:
        near = difflib.get_close_matches(sweep.metric, choices, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{path}: metric = {redact(sweep.metric)!r}: {guess}It must be one of {', '.join(choices)}")
    right, words = ("minimize", "lowest") if sweep.metric.endswith(_LOWER) else ("maximize", "highest")
    if sweep.direction != right:
        raise UserError(
            f"{path}: direction = {sweep.direction!r}: of {sweep.metric} the {words} is the best; write {right}"
        )


def _check_pruner(sweep: Sweep, path: Path, settings: Values) -> None:
    """Raise `UserError` if no trial is measured before its end, where alone it can be pruned."""
    if sweep.pruner.kind == "none" or {"train.max_steps", "train.eval_interval"} & sweep.parameters.keys():
        return
    steps, interval = settings["train"]["max_steps"], settings["train"]["eval_interval"]
    begin = sweep.pruner.warmup_steps if isinstance(sweep.pruner, Median) else sweep.pruner.min_steps
    if not any(step >= begin for step in range(interval, steps, interval)):
        raise UserError(
            f"{path}: pruner: trials are pruned at validations, and of train.max_steps = {steps} with train.eval_interval ="
            f" {interval} none is from step {begin} on and before the end; set a smaller train.eval_interval under overrides,"
            " or let pruning begin earlier"
        )
