"""What a person at the terminal sees of a run: steps, loss, speed and time left."""

import sys
import time
from dataclasses import dataclass

from tqdm import tqdm

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
    """Steps, loss, speed and time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, first_step: int, max_steps: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=max_steps, initial=first_step, unit="step", dynamic_ncols=True, disable=not self._terminal
        )
        self._first, self._last, self._max = first_step, first_step, max_steps
        self._begun = time.monotonic()
        self._next_line = 0.0

    def update(self, step: int, loss: float, speed: Reading) -> None:
        """Show that `step` steps are done; fewer than before, if training went back."""
        now = time.monotonic()
        if step <= self._last:
            self._first, self._begun = step - 1, now
        self._last = step
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(f"loss {loss:.3f}, {speed}")
        if not self._terminal and (now >= self._next_line or step == self._max):
            self._next_line = now + _LINE_SECONDS
            left = (now - self._begun) / (step - self._first) * (self._max - step)
            minutes, seconds = divmod(round(left), 60)
            self.say(f"step {step}/{self._max}  loss {loss:.3f}  {speed}  {minutes}:{seconds:02} left")

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
