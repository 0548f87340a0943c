"""Types of settings: ranges and forms that several sections of params.yaml share."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _file_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("must be letters, digits, '.', '_' and '-', and begin with a letter or digit")
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("must be 64 hexadecimal digits in lower case")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return value


def not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # pydantic's min_length counts valid items: one faulty item would be two faults.
    if not value:
        raise ValueError("must have at least one item")
    return value


FileName = Annotated[str, AfterValidator(_file_name)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Text = Annotated[str, Field(min_length=1)]


def flatten(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return nested settings by their whole key, as `prepare.read.format`; an empty object is a value."""
    flat = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= flatten(value, name) if isinstance(value, dict) and value else {name: value}
    return flat


class Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
