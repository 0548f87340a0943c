"""What the gate says: a list of reasons, each one thing that it looked at, with the figure and what is required of it."""

from dataclasses import asdict, dataclass
from typing import Any

from gpt.errors import UserError

TEST_DATA = "test_data"
"The check whether both models are about the same texts."


class CannotJudge(UserError):
    """What the gate needs is not at hand: nothing was decided."""


@dataclass(frozen=True)
class Reason:
    """One thing that the gate looked at."""

    check: str
    passed: bool
    text: str
    "In words, for a person."
    figure: float | None = None
    threshold: float | None = None
    low: float | None = None
    "Of the figure's interval."
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def draw_table(reasons: tuple[Reason, ...]) -> list[str]:
    """Return a line for each reason: passed or failed, what was looked at, in words."""
    width = max((len(reason.check) for reason in reasons), default=0)
    return [f"  {'passed' if one.passed else 'failed'}  {one.check:<{width}}  {one.text}" for one in reasons]
