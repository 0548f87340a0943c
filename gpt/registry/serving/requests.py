"""What a served model takes: prompts and sampling parameters, checked before anything is computed.

A check raises `ValueError` whose message names the field and what is allowed: the client of a server reads it.
"""

import dataclasses
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from gpt.model.sampling import Sampling

_NAMED = 10
"Rows in a message."
_MAX_STOPS = 16
_MAX_STOP_CHARACTERS = 256
_SHOWN_CHARACTERS = 60


class Limits(NamedTuple):
    """What a request may cost. Kept in the MLflow model as its `model_config`; MLFLOW_PYFUNC_INFERENCE_CONFIG changes them."""

    max_new_tokens: int
    max_prompt_characters: int
    max_prompts: int
    "Of one request to a server, as what follows; from Python there is no limit but patience."
    max_request_tokens: int
    "New tokens of all prompts together."
    max_request_bytes: int


def limits_for(block_size: int, max_new_tokens: int) -> Limits:
    """Return the limits of a model that sees `block_size` tokens and writes `max_new_tokens` unless it is told otherwise.

    A prompt may be longer than the context, of which the model sees the last `block_size` tokens, as with `gpt generate`;
    one that is far longer is a mistake that should not cost a server's time.
    """
    longest = max(16 * block_size, max_new_tokens)
    return Limits(longest, max(100_000, 64 * block_size), 1024, max(2**16, longest), 16 * 2**20)


def read_limits(values: Mapping[str, Any]) -> Limits:
    """Return limits as an MLflow model keeps them; raise `ValueError` for one that is no whole number above 0."""
    limits = Limits(**{name: values[name] for name in Limits._fields})
    if wrong := [name for name, value in limits._asdict().items() if type(value) is not int or value < 1]:
        raise ValueError(f"the limit {wrong[0]} must be a whole number above 0, not {_shown(values[wrong[0]])}")
    return limits


def check_prompts(prompts: Iterable[Any], limits: Limits) -> list[str]:
    """Return prompts that are texts; raise `ValueError` that names the rows, counted from 0, of those that are not."""
    prompts = list(prompts)
    wrong = [f"row {row} ({_describe(value)})" for row, value in enumerate(prompts) if not isinstance(value, str)]
    if wrong:
        raise ValueError(f'"prompt" must be text, counted from 0 it is none in {_some(wrong)}')
    halves = [f"row {row}" for row, text in enumerate(prompts) if not _is_unicode(text)]
    if halves:
        raise ValueError(
            f'"prompt" must be Unicode text, counted from 0 it has half a surrogate pair in {_some(halves)}'
        )
    most = limits.max_prompt_characters
    long = [f"row {row} ({len(text):,})" for row, text in enumerate(prompts) if len(text) > most]
    if long:
        raise ValueError(f'"prompt" must have at most {most:,} characters, counted from 0 it has more in {_some(long)}')
    return prompts


def check_parameters(parameters: Any, limits: Limits) -> dict[str, Any]:
    """Return sampling parameters by name, each of its type and in its range; raise `ValueError` that names one that is not."""
    if not isinstance(parameters, Mapping):
        raise ValueError(f'"params" must be an object of parameters by name, not {_describe(parameters)}')
    kinds = _kinds(limits)
    if unknown := [_shown(name) for name in parameters if name not in kinds]:
        raise ValueError(f"there is no parameter {_some(unknown)}; there are {', '.join(kinds)}")
    return {name: _check(name, value, *kinds[name]) for name, value in parameters.items()}


def check_size(prompts: int, max_new_tokens: int, limits: Limits) -> None:
    """Raise `ValueError` if prompts are more than a server answers in one request, or ask for too many tokens."""
    if prompts > limits.max_prompts:
        raise ValueError(f'"prompt" has {prompts:,} rows; a request may have {limits.max_prompts:,}: send several')
    if prompts * max_new_tokens > limits.max_request_tokens:
        raise ValueError(
            f'"prompt" has {prompts:,} rows of "max_new_tokens" {max_new_tokens:,} each; a request may ask for'
            f" {limits.max_request_tokens:,} new tokens in all: send several"
        )


def _check(name: str, value: Any, convert: Callable[[Any], Any], meaning: str, most: float) -> Any:
    try:
        converted = convert(value)
        if name != "stop" and converted > most:
            raise ValueError
        in_range: dict[str, Any] = {"max_new_tokens": 1} | {name: converted}
        Sampling(**in_range)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f'"{name}" must be {meaning}, not {_shown(value)}') from None
    return converted


def _kinds(limits: Limits) -> dict[str, tuple[Callable[[Any], Any], str, float]]:
    """Return for each field of `Sampling` its type, what it may be, and the largest number."""
    most = limits.max_new_tokens
    whole = "a whole number from 0 to 2**63 - 1"
    kinds: dict[str, tuple[Callable[[Any], Any], str, float]] = {
        "max_new_tokens": (_whole, f"a whole number from 1 to {most:,} (this model's limit)", most),
        "repetition_penalty": (_number, "a finite number above 0", float("inf")),
        "temperature": (_number, "a finite number of at least 0", float("inf")),
        "top_k": (_whole, whole, 2**63 - 1),
        "top_p": (_number, "a number above 0 and at most 1", 1),
        "min_p": (_number, "a number from 0 to 1", 1),
        "stop": (
            _texts,
            f"a list of at most {_MAX_STOPS} texts of 1 to {_MAX_STOP_CHARACTERS} characters",
            float("inf"),
        ),
        "seed": (_seed, whole, 2**63 - 1),
    }
    assert kinds.keys() == {field.name for field in dataclasses.fields(Sampling)}
    return kinds


def _whole(value: Any) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError
    return int(value)


def _seed(value: Any) -> int:
    if (seed := _whole(value)) < 0:
        raise ValueError
    return seed


def _number(value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError
    return float(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > _MAX_STOPS:
        raise TypeError
    if not all(isinstance(text, str) and len(text) <= _MAX_STOP_CHARACTERS and _is_unicode(text) for text in value):
        raise TypeError
    return tuple(value)


def _is_unicode(text: str) -> bool:
    """Whether a text has characters only: JSON can spell halves of surrogate pairs, which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _describe(value: Any) -> str:
    """Return what a value is, where a text or an object was expected."""
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return "null" if missing or (isinstance(value, float) and value != value) else type(value).__name__  # NaN


def _shown(value: Any) -> str:
    """Return a value for a message, cut where it is long, and with no character that a terminal would act on."""
    try:
        text = ascii(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        text = f"a {type(value).__name__} of very many digits"
    return "null" if value is None else text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
