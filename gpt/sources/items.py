"""The form of all benchmarks: a JSON object a line, an item each, in a file that is named for its benchmark.

An item holds what a model is scored on and, apart from that, the words that no training document may contain.
"""

import gzip
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO, Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from gpt.errors import UserError, located
from gpt.params.types import FileName, NonNegativeInt, Text

_MAX_LINE_BYTES = 1 << 24  # of lines that inflate without end
_STRICT = ConfigDict(strict=True, extra="forbid")


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


@dataclass(frozen=True, config=_STRICT)
class Choice:
    context: str
    continuation: Text
    "Begins with its space."


@dataclass(frozen=True, config=_STRICT)
class Item:
    """A question of a benchmark, without examples before it: the choice that the model finds likeliest should be `answer`."""

    id: Text
    "As in hellaswag/validation/24; of no other item."
    benchmark: FileName
    split: Text
    choices: Annotated[tuple[Choice, ...], Field(min_length=1)]
    answer: NonNegativeInt
    "Index of the right choice; 0 where the text has but one, whose likelihood is measured."
    texts: Annotated[tuple[Annotated[str, AfterValidator(_not_blank)], ...], Field(min_length=1)]
    "Stretches of the item's own words, without the template around them."

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> Self:
        if self.answer >= len(self.choices):
            raise ValueError(f"answer = {self.answer}: must be below {len(self.choices)}, the number of choices")
        return self


_ITEM = TypeAdapter(Item)
Readable = IO[bytes] | gzip.GzipFile
NumberedItems = Iterator[tuple[int, Item]]
"Items, each with the number of the line that it begins on."


def read_items(path: Path) -> Iterator[Item]:
    """Yield the items of a file of data/benchmarks; raise `UserError` naming the line that is none."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run `gpt fetch`")
    with located(str(path)):
        for _, item in read_common(path)[1]:
            yield item


def numbered_lines(file: Readable) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of an open file with their numbers; raise `UserError` where it is damaged."""
    try:
        for number in count(1):
            line = file.readline(_MAX_LINE_BYTES)
            if not line:
                return
            if len(line) == _MAX_LINE_BYTES:
                raise UserError(f"line {number}: is longer than {_MAX_LINE_BYTES:,} bytes; shorten the item")
            yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"damaged ({error}); fetch an undamaged one") from None


def read_common(path: Path) -> tuple[str, NumberedItems]:
    """Return benchmark and items of a file in the common form, which is named for its benchmark."""

    def items() -> NumberedItems:
        with path.open("rb") as file:
            for number, line in numbered_lines(file):
                try:
                    item = _ITEM.validate_json(line)
                except ValidationError as error:
                    raise UserError(f"line {number}: {describe_fault(error)}") from None
                if item.benchmark != path.stem:
                    raise UserError(
                        f"line {number}: benchmark = {item.benchmark!r}: must be {path.stem!r}, as the file is named"
                    )
                yield number, item

    return path.stem, items()


def describe_fault(error: ValidationError) -> str:
    """The first fault of an item, with the field's name."""
    fault = error.errors(include_url=False)[0]
    # What it says of the place inside the JSON would be taken for the line in the file.
    message = fault["msg"].removeprefix("Value error, ").partition(" at line ")[0]
    message = message[0].lower() + message[1:]
    return f"{'.'.join(map(str, fault['loc']))}: {message}" if fault["loc"] else message
