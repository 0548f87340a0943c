"""What a person sees of a run while it trains: on a terminal a table that stays, elsewhere a line now and then."""

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt.tracking.terminal.table import LiveTable

_LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Reading:
    """What `Meters` measured between two readings."""

    tokens_per_second: float
    "Over all processes."
    mfu: float | None
    peak_memory_bytes: int
    "Of this process: allocated on its GPU, or resident."

    def metrics(self) -> dict[str, float]:
        """Return what MLflow gets; an MFU that is not known is left out."""
        values = {"tokens_per_second": self.tokens_per_second, "peak_memory_megabytes": self.peak_memory_bytes / 1e6}
        return values if self.mfu is None else values | {"mfu": self.mfu}

    def __str__(self) -> str:
        mfu = "n/a" if self.mfu is None else f"{self.mfu:.1%}"
        return f"{self.tokens_per_second:,.0f} tok/s, MFU {mfu}"


class Progress:
    """Steps, losses, speed, memory, a sample and the time left of a run, for a person at the terminal or the reader of a log.

    `figure` is what validation measures besides the loss, as in bits_per_byte.
    """

    def __init__(self, first_step: int, max_steps: int, figure: str = "bits_per_byte") -> None:
        self._figure = figure
        self._table = _open_table(first_step, max_steps, figure.replace("_per_", "/").replace("_", " "))
        self._first, self._last, self._max = first_step, first_step, max_steps
        self._begun = time.monotonic()
        self._seconds_per_step: float | None = None
        self._next_line = 0.0

    def update(self, step: int, loss: float, speed: Reading) -> None:
        """Show that `step` steps are done; fewer than before, if training went back."""
        now = time.monotonic()
        if (
            step <= self._last
        ):  # how many steps were taken since the last update is not known, but how long one took before
            self._first, self._begun = step, now
        else:
            self._seconds_per_step = (now - self._begun) / (step - self._first)
        self._last = step
        left = None if self._seconds_per_step is None else self._seconds_per_step * (self._max - step)
        if self._table:
            self._table.step(step, loss, speed, left)
        elif now >= self._next_line or step == self._max:
            self._next_line = now + _LINE_SECONDS
            self._say(f"step {step}/{self._max}  loss {loss:.3f}  {speed}" + ("" if left is None else _left(left)))

    def validation(self, row: dict[str, float]) -> None:
        """Show a row with `step`, `validation_loss` and the figure, as `validation_bits_per_byte`."""
        step, loss, figure = int(row["step"]), row["validation_loss"], row[f"validation_{self._figure}"]
        if self._table:
            self._table.evaluation(step, loss, figure)
        else:
            self._say(f"step {step}: validation loss {loss:.4f}, {figure:.4f} {self._figure.replace('_', ' ')}")

    def sample(self, step: int, text: str) -> None:
        """Show the beginning of a text that the model wrote; in a log it would bury the figures."""
        if self._table and text:
            self._table.sample(step, text)

    def close(self) -> None:
        """Leave the last of it on the screen; it may be called again."""
        if self._table:
            self._table.close()

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _left(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"  {minutes}:{seconds:02} left"


def _open_table(first_step: int, max_steps: int, figure: str) -> "LiveTable | None":
    """Return the table of a run if a person looks at stderr, on a terminal that can redraw what it shows."""
    if sys.stderr is None or not sys.stderr.isatty() or not os.environ.get("TERM"):
        return None
    from gpt.tracking.terminal import table  # imports rich

    return table.LiveTable.open(table.State(max_steps, table.Row(first_step), figure=figure))
