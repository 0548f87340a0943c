"""A sweep's pictures as SVG: what the trials tried and got, on parallel axes; and how they learned.

A trial looks the same in both: the best orange, complete ones blue, those that were pruned grey and dashed.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gpt.reports.page import visible
from gpt.reports.pictures import COLOURS, INK, in_own_style, new_figure, short_number, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COMPLETE, _BEST, _PRUNED = COLOURS[0], COLOURS[1], COLOURS[6]
_MOST_CHOICES = 8
"Of an axis of choices, so many are named."
_LABEL_CHARACTERS = 14


class Line(NamedTuple):
    """A trial."""

    places: Sequence[float | str | None]
    "Its value on each axis, None where it has none."
    curve: Sequence[tuple[float, float]]
    is_complete: bool
    is_best: bool


class Axis(NamedTuple):
    """One of the parallel axes."""

    name: str
    choices: Sequence[str] = ()
    "What its values are, in order; none: they are numbers."
    log: bool = False


@in_own_style
def draw_parallel(axes: Sequence[Axis], lines: Sequence[Line]) -> str:
    """Return each trial as a line over parallel axes, the metric the last one."""
    figure = new_figure(3.4)
    pane = figure.add_subplot()
    scales = [_scale(axis, [line.places[number] for line in lines]) for number, axis in enumerate(axes)]
    for line in sorted(lines, key=lambda line: (line.is_best, line.is_complete)):  # the best above the others
        points = [
            (number, height)
            for number, (place, scale) in enumerate(zip(line.places, scales, strict=True))
            if (height := _height(place, scale)) is not None
        ]
        colour, stroke, width, strength = _style(line)
        pane.plot(*zip(*points, strict=True), color=colour, linestyle=stroke, linewidth=width, alpha=strength)
    for number, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        pane.axvline(number, color=INK, linewidth=0.8, alpha=0.6)
        for height, text in _marks(axis, scale):
            pane.annotate(
                visible(text), (number, height), xytext=(3, 3), textcoords="offset points",
                fontsize=7, color=INK, va="bottom",
            )  # fmt: skip
    pane.set_xticks(range(len(axes)), [_wrapped(axis.name) for axis in axes])
    pane.set_xlim(-0.1, len(axes) - 0.6)
    pane.set_ylim(-0.03, 1.1)
    pane.set_yticks([])
    pane.spines[["left", "bottom"]].set_visible(False)
    pane.tick_params(length=0)
    _legend(figure, lines)
    return to_svg(figure, "what the trials tried, and what they got")


@in_own_style
def draw_learning(lines: Sequence[Line], y_label: str) -> str:
    """Return the trials' curves over steps, "" if there is none."""
    drawn = [line for line in lines if line.curve]
    if not drawn:
        return ""
    figure = new_figure(3.2)
    pane = figure.add_subplot()
    for line in sorted(drawn, key=lambda line: (line.is_best, line.is_complete)):
        colour, stroke, width, strength = _style(line)
        pane.plot(
            *zip(*line.curve, strict=True), color=colour, linestyle=stroke, linewidth=width, alpha=strength,
            marker="o" if line.is_complete else "x", markersize=2.6, markevery=[len(line.curve) - 1],
        )  # fmt: skip
    pane.grid(color=INK, alpha=0.15, linewidth=0.6)
    pane.locator_params(axis="x", integer=True)
    pane.set_xlabel("optimizer step")
    pane.set_ylabel(y_label)
    _logarithmic_if_wide(pane, [value for line in drawn for _, value in line.curve])
    _legend(figure, drawn)
    return to_svg(figure, "how the trials learned")


def _style(line: Line) -> tuple[str, str, float, float]:
    """Return colour, stroke, width and strength."""
    if line.is_best:
        return _BEST, "-", 2.2, 1.0
    return (_COMPLETE, "-", 1.2, 0.75) if line.is_complete else (_PRUNED, "--", 1.0, 0.75)


def _legend(figure, lines: Sequence[Line]) -> None:
    from matplotlib.lines import Line2D

    kinds = {
        "best": any(line.is_best for line in lines),
        "complete": any(line.is_complete and not line.is_best for line in lines),
        "pruned or failed": any(not line.is_complete for line in lines),
    }
    styles = {
        "best": (_BEST, False, 2.2),
        "complete": (_COMPLETE, False, 1.2),
        "pruned or failed": (_PRUNED, True, 1.0),
    }
    handles = [
        Line2D([], [], color=colour, linestyle="--" if dashed else "-", linewidth=width, label=name)
        for name, (colour, dashed, width) in styles.items()
        if kinds[name]
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, labelcolor=INK)


class _Scale(NamedTuple):
    low: float
    high: float
    log: bool
    choices: Sequence[str]


def _scale(axis: Axis, values: Sequence[float | str | None]) -> _Scale:
    if axis.choices:
        return _Scale(0.0, max(1.0, len(axis.choices) - 1.0), False, axis.choices)
    numbers = [float(value) for value in values if value is not None] or [0.0]
    low, high = min(numbers), max(numbers)
    log = axis.log and low > 0
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return _Scale(low, high, log, ())


def _height(value: float | str | None, scale: _Scale) -> float | None:
    """Return where a value lies on its axis, from 0 to 1."""
    if value is None:
        return None
    number = float(scale.choices.index(str(value))) if scale.choices else float(value)
    if scale.log:
        return math.log(number / scale.low) / math.log(scale.high / scale.low)
    return (number - scale.low) / (scale.high - scale.low)


def _marks(axis: Axis, scale: _Scale) -> list[tuple[float, str]]:
    """Return what stands beside an axis, and where."""
    if axis.choices:
        every = math.ceil(len(axis.choices) / _MOST_CHOICES)
        return [(_height(choice, scale) or 0.0, _short(choice)) for choice in axis.choices[::every]]
    middle = math.sqrt(scale.low * scale.high) if scale.log else (scale.low + scale.high) / 2
    return [(height, short_number(value)) for height, value in ((0, scale.low), (0.5, middle), (1, scale.high))]


def _logarithmic_if_wide(pane: "Axes", values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > 3 * min(values):
        pane.set_yscale("log", base=2)
        pane.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
        pane.minorticks_off()


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_CHARACTERS else f"{text[: _LABEL_CHARACTERS - 1]}…"


def _wrapped(name: str) -> str:
    """Return a key in lines that leave its neighbours room."""
    lines = textwrap.wrap(visible(name).replace("_", " "), _LABEL_CHARACTERS, break_long_words=False)
    return "_\n".join(line.replace(" ", "_") for line in lines)
