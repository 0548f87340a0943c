"""The evaluation's pictures as SVG: curves over steps or positions, and bars with intervals and chance."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gpt.reports.page import visible
from gpt.reports.pictures import COLOURS, INK, in_own_style, new_figure, short_number, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, THEIRS = COLOURS[:2]
"Of the model and of the champion beside it."
_MOST_POINTS = 1000
_FEW_POINTS = 24
"So few are marked."
_SHORT_NAME = 20
"Characters of names of which two stand beside each other in a legend."


class Curve(NamedTuple):
    """Points with a name; those that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = OURS
    dashed: bool = False
    width: float = 1.4

    def points(self) -> list[tuple[float, float]]:
        """Return the points; of very many, the lowest and the highest of each stretch, so that no peak is lost."""
        points = [(x, y) for x, y in zip(self.x, self.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if len(points) <= _MOST_POINTS:
            return points
        size = math.ceil(len(points) / (_MOST_POINTS // 2))
        stretches = (points[first : first + size] for first in range(0, len(points), size))
        return [
            point
            for stretch in stretches
            for point in sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
        ]


class Bars(NamedTuple):
    """A value for each row, None where there is none, and what else stands in that row."""

    name: str
    values: Sequence[float | None]
    colour: str = OURS
    intervals: Sequence[tuple[float, float] | None] = ()
    hatched: bool = False
    slot: int = 0
    "Bars of one row stand under each other by it; two of the same slot have no value in the same row."


class Marks(NamedTuple):
    """A stroke in each row, to compare its bars with."""

    name: str
    values: Sequence[float | None]
    style: str = "-"


@in_own_style
def draw_curves(
    curves: Sequence[Curve], label: str, x_label: str, y_label: str, *, log_x: bool = False, log_y: bool = False
) -> str:
    """Return curves, "" if none of them has a point; `label` names the picture (`to_svg`)."""
    shown = [(curve, points) for curve in curves if (points := curve.points())]
    if not shown:
        return ""
    several = len(shown) > 1
    figure = new_figure(2.5 + several * _legend_inches([curve.name for curve, _ in shown]))
    axes = figure.add_subplot()
    for curve, points in shown:
        axes.plot(
            *zip(*points, strict=True),
            color=curve.colour,
            linestyle="--" if curve.dashed else "-",
            linewidth=curve.width,
            marker="o" if len(points) <= _FEW_POINTS else "",
            markersize=3.2,
            label=visible(curve.name),
        )
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _set_scale(axes, "x", log_x, [x for _, points in shown for x, _ in points])
    _set_scale(axes, "y", log_y, [y for _, points in shown for _, y in points])
    if several:
        _add_legend(figure, [curve.name for curve, _ in shown])
    return to_svg(figure, label)


@in_own_style
def draw_bars(
    rows: Sequence[str],
    bars: Sequence[Bars],
    label: str,
    unit: str,
    *,
    marks: Sequence[Marks] = (),
    most: float | None = None,
) -> str:
    """Return horizontal bars, a group for each row, "" if there are no rows; the scale ends at `most`, if that is given."""
    if not rows:
        return ""
    legend = _legend_inches([series.name for series in (*bars, *marks)])
    slots = 1 + max(series.slot for series in bars)
    figure = new_figure(0.6 + legend + (0.06 + 0.17 * slots) * len(rows))
    axes = figure.add_subplot()
    height = 0.8 / slots
    for series in bars:
        places = [row + (series.slot - (slots - 1) / 2) * height for row in range(len(rows))]
        _draw_series(axes, series, places, 0.9 * height)
    for series in marks:
        found = [(value, row) for row, value in enumerate(series.values) if value is not None]
        if found:
            values, places = zip(*found, strict=True)
            lows, highs = ([place + side * 0.45 for place in places] for side in (-1, 1))
            axes.vlines(
                values, lows, highs, color=INK, linestyle=series.style, linewidth=1.3, label=visible(series.name)
            )
    axes.set_yticks(range(len(rows)), [visible(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, most)
    axes.set_xlabel(unit)
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)
    _add_legend(figure, [series.name for series in (*bars, *marks)])
    return to_svg(figure, label)


def _draw_series(axes: "Axes", series: Bars, places: list[float], height: float) -> None:
    found = [number for number, value in enumerate(series.values) if value is not None]
    intervals = [series.intervals[number] if series.intervals else None for number in found]
    values = [float(series.values[number] or 0) for number in found]
    there = [places[number] for number in found]
    style: dict[str, Any] = {"color": series.colour}
    if series.hatched:
        style = {"hatch": "////", "facecolor": "none", "edgecolor": series.colour}
    axes.barh(there, values, height=height, label=visible(series.name), **style)
    for value, place, interval in zip(values, there, intervals, strict=True):
        if interval:
            low, high = interval
            axes.errorbar(
                value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], color=INK, linewidth=1, capsize=2
            )


def _add_legend(figure: "Figure", names: Sequence[str]) -> None:
    figure.legend(loc="outside upper left", ncols=_legend_columns(names), frameon=False, labelcolor=INK)


def _legend_columns(names: Sequence[str]) -> int:
    return 2 if max(map(len, names)) <= _SHORT_NAME else 1


def _legend_inches(names: Sequence[str]) -> float:
    return 0.17 * -(-len(names) // _legend_columns(names))


def _set_scale(axes: "Axes", which: str, log: bool, values: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    axis = getattr(axes, f"{which}axis")
    if log and min(values) > 0 and max(values) > 2 * min(values):
        getattr(axes, f"set_{which}scale")("log", base=2)
        axis.set_minor_formatter(NullFormatter())
    elif which == "x":
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(lambda value, _: f"{value:.4g}" if abs(value) < 1000 else short_number(value))
