"""What the gate says: a list of reasons, each one thing that it looked at, with the figure and what is required of it."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gpt.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from gpt.registry.gate.scores import Comparison

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


class Judgeable(Protocol):
    """A candidate beside the champion, as promotion asks about it, whatever kind of model it is."""

    def depends_on(self) -> str:
        """Return a hash of what the verdict depends on."""
        ...

    def judge(self) -> Iterable[Reason]:
        """Return everything that the gate looks at; raise `CannotJudge` if something for it is not at hand."""
        ...

    def compare(self, reasons: tuple[Reason, ...]) -> "Comparison | None":
        """Return the comparison behind the reasons, None if there was none."""
        ...


OpenCase = Callable[["MlflowClient", "ModelVersion", "ModelVersion | None"], Judgeable]
"Given a candidate and the champion, if there is one."


def draw_table(reasons: tuple[Reason, ...]) -> list[str]:
    """Return a line for each reason: passed or failed, what was looked at, in words."""
    width = max((len(reason.check) for reason in reasons), default=0)
    return [f"  {'passed' if one.passed else 'failed'}  {one.check:<{width}}  {one.text}" for one in reasons]
