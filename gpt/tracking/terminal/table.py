"""The table that stays in a terminal while a run trains: its evaluations, the step now, a sample, a bar and the time left.

It redraws itself once a second, whatever the steps take, and costs training less than that suggests: what a step tells is kept as
values, and made into text by the thread that draws. It hides no cursor and changes no mode: however a process ends, the terminal
is as it was.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gpt.memory import in_units

if TYPE_CHECKING:
    from gpt.tracking.progress import Reading

_ROWS = 8  # evaluations that are shown: the last ones
_REDRAWS_PER_SECOND = 1.0
_FIGURE = ""  # its heading is the state's
_FIGURES = {0: ("step", "loss"), 42: ("validation", _FIGURE), 52: ("tokens/s",), 72: ("MFU", "memory")}
"Columns of a terminal from which on figures have room."
_SAMPLE_CHARACTERS = 400


@dataclass(frozen=True)
class Row:
    """What is known after a step; None is not known."""

    step: int
    loss: float | None = None
    validation_loss: float | None = None
    figure: float | None = None
    "Of the validation, besides its loss."
    tokens_per_second: float | None = None
    mfu: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class State:
    """All that the table shows. It is replaced, never changed: the thread that draws reads it at any instant."""

    max_steps: int
    now: Row
    seconds_left: float | None = None
    evaluations: tuple[Row, ...] = ()
    sample: tuple[int, str] | None = None
    figure: str = "bits/byte"
    "Heading of the validation's figure."


class LiveTable:
    """Shows a `State` on a terminal until `close`, which leaves it there."""

    @classmethod
    def open(cls, state: State) -> "LiveTable | None":
        """Return a table that is shown, None if the terminal cannot redraw: TERM=dumb, and what rich's variables say."""
        console = Console(stderr=True)
        return cls(state, console) if console.is_interactive else None

    def __init__(self, state: State, console: Console) -> None:
        self.state, self._console = state, console
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=_REDRAWS_PER_SECOND,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # else it goes to a file, untouched
        )
        self._live.start(refresh=True)
        self._console.show_cursor(True)
        self._above = ExitStack()
        self._above.enter_context(_logging_above())

    def _draw(self) -> RenderableType:
        return draw(self.state, *self._console.size, encoding=self._console.encoding)

    def step(self, step: int, loss: float, reading: "Reading", seconds_left: float | None) -> None:
        """Show that steps were taken."""
        speed, memory = reading.tokens_per_second, reading.peak_memory_bytes
        now = Row(step, loss, tokens_per_second=speed, mfu=reading.mfu, memory_bytes=memory)
        # Training that went back makes its evaluations again.
        kept = tuple(row for row in self.state.evaluations if row.step <= step)
        self.state = replace(self.state, now=now, seconds_left=seconds_left, evaluations=kept)

    def evaluation(self, step: int, loss: float, figure: float) -> None:
        """Add a row for an evaluation, which stays."""
        now = self.state.now if self.state.now.step == step else Row(step)
        row = replace(now, validation_loss=loss, figure=figure)
        others = tuple(row for row in self.state.evaluations if row.step != step)
        self.state = replace(self.state, now=now, evaluations=(*others, row)[-_ROWS:])

    def sample(self, step: int, text: str) -> None:
        """Show a text that the model wrote after a step."""
        self.state = replace(self.state, sample=(step, text))

    def close(self) -> None:
        """Draw a last time, and leave what is drawn above what comes; it may be called again."""
        if self._live.is_started:
            self._live.stop()
            self._above.close()


def draw(state: State, columns: int, lines: int, *, encoding: str = "utf-8") -> RenderableType:
    """Return what a terminal of so many columns and lines shows of a state.

    It is never wider than the terminal: a line that broke would be redrawn one line too low.
    """
    # The bar, the sample, the heading, the row of the step now, and a line where the cursor stands.
    room = max(0, min(_ROWS, lines - 6))
    past = [row for row in state.evaluations if row.step != state.now.step][-room:] if room else []
    parts: list[RenderableType] = [_table([*past, _with_evaluation(state)], columns, state.figure)]
    if state.sample:
        step, text = state.sample
        shown = Text(f" step {step:,} writes: ", style="dim", no_wrap=True, overflow="crop")
        parts.append(shown.append(legible(text, encoding), style="italic not dim"))
    parts.append(_bar(state, columns))
    return Group(*parts)


def legible(text: str, encoding: str = "utf-8") -> str:
    """Return a text of the model's as one line that the terminal can show, and in which nothing moves its cursor."""
    characters = text[:_SAMPLE_CHARACTERS].strip().replace("\n", "⏎" if "utf" in encoding else "/")
    printable = "".join(character if character.isprintable() else " " for character in characters)
    return printable.encode(encoding, "replace").decode(encoding)


def duration(seconds: float) -> str:
    """Return seconds as 0:05, 1:02:05 or 3 d 4 h."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f"{days} d {hours_of_day} h"
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


def _with_evaluation(state: State) -> Row:
    """Return the row of the step now, with its evaluation if it has one."""
    for row in state.evaluations:
        if row.step == state.now.step:
            return replace(state.now, validation_loss=row.validation_loss, figure=row.figure)
    return state.now


def _table(rows: list[Row], columns: int, figure: str) -> Table:
    table = Table(box=None, pad_edge=True, padding=(0, 1), header_style="bold")
    headings = [heading for room, those in _FIGURES.items() if columns >= room for heading in those]
    for heading in headings:
        table.add_column(heading or figure, justify="right", no_wrap=True)
    for row in rows:
        values = [
            f"{row.step:,}",
            _figure(row.loss, "{:.3f}"),
            _figure(row.validation_loss, "{:.4f}"),
            _figure(row.figure, "{:.4f}"),
            _figure(row.tokens_per_second, "{:,.0f}"),
            _figure(row.mfu, "{:.1%}"),
            "" if row.memory_bytes is None else in_units(row.memory_bytes),
        ]
        table.add_row(*values[: len(headings)], style="" if row is rows[-1] else "dim")
    return table


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _bar(state: State, columns: int) -> Table:
    done, of = state.now.step, state.max_steps
    left = "" if state.seconds_left is None or done >= of else f"{duration(state.seconds_left)} left"
    line = Table.grid(padding=(0, 1))
    line.add_column(width=max(4, min(40, columns - 36)))
    line.add_column(no_wrap=True, overflow="crop")
    line.add_row(ProgressBar(total=max(1, of), completed=done), f"{done:,}/{of:,}  {left}")
    return line


@contextmanager
def _logging_above() -> Iterator[None]:
    """Let what is logged to the terminal appear above the table: handlers hold the stream that was there before it."""
    before = {
        handler: handler.setStream(sys.stderr)
        for handler in logging.getLogger().handlers
        if type(handler) is logging.StreamHandler and handler.stream is sys.__stderr__
    }
    try:
        yield
    finally:
        for handler, stream in before.items():
            if stream is not None:
                handler.setStream(stream)
