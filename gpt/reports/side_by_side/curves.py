"""The curves of several models in one picture: training loss above, bits per byte of validation documents below."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt.reports.model_page.charts import Curve
from gpt.reports.model_page.measured import Columns
from gpt.reports.page import visible
from gpt.reports.pictures import COLOURS, INK, in_own_style, new_figure, to_svg
from gpt.reports.side_by_side.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = ("-", "--", ":", "-.")
"Where there are more models than colours, the next ones are told apart by their strokes."
_FEW_POINTS = 24
_INCHES = 2.2  # of each panel
_LEGEND_INCHES = 0.17
_SHORT_NAME = 20
# Of pictures that lie alone, so that they can be read on any page.
_PAPER = "background:#ffffff;color:#1b2127"


@in_own_style
def draw_curves(subjects: Sequence[Subject], *, per_token: bool) -> str:
    """Return the curves as SVG, "" if no model has one; `per_token` says whether losses compare, which are per token."""
    panels = [("validation_bits_per_byte", "bits per byte (validation)")]
    if per_token:
        panels.insert(0, ("train_loss", "training loss (nats per token)"))
    drawn = [(found, label) for column, label in panels if (found := _curves(subjects, column))]
    if not drawn:
        return ""
    named = {name: style for found, _ in drawn for name, style, _ in found}
    legend = _LEGEND_INCHES * -(-len(named) // _columns(list(named)))
    figure = new_figure(0.4 + legend + _INCHES * len(drawn))
    panes = figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0]
    for axes, (found, label) in zip(panes, drawn, strict=True):
        _draw(axes, found, label)
    panes[-1].set_xlabel("optimizer step")
    handles = {handle.get_label(): handle for axes in panes for handle in axes.get_lines()}
    figure.legend(
        handles=list(handles.values()),
        loc="outside upper left",
        ncols=_columns(list(named)),
        frameon=False,
        labelcolor=INK,
    )
    return to_svg(figure, "Curves of all models by optimizer step")


def as_file(svg: str) -> str:
    """Return a picture for a file of its own: dark on white, also where the page around it is dark."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("<svg ", f'<svg style="{_PAPER}" ', 1)


def _curves(subjects: Sequence[Subject], column: str) -> list[tuple[str, tuple[str, str], list[tuple[float, float]]]]:
    """Return name, colour and stroke, and points of each model that has such a curve; a model looks the same in all panels."""
    return [
        (subject.name, (COLOURS[number % len(COLOURS)], _STYLES[number // len(COLOURS) % len(_STYLES)]), points)
        for number, subject in enumerate(subjects)
        if (points := _points(subject, column))
    ]


def _points(subject: Subject, column: str) -> list[tuple[float, float]]:
    columns: Columns = subject.measured.validation if column.startswith("validation") else subject.measured.training
    steps, values = columns.get("step", []), columns.get(column, [])
    return Curve(subject.name, steps, values).points() if len(steps) == len(values) else []


def _draw(axes: "Axes", curves: list[tuple[str, tuple[str, str], list[tuple[float, float]]]], label: str) -> None:
    for name, (colour, stroke), points in curves:
        axes.plot(
            *zip(*points, strict=True),
            color=colour, linestyle=stroke, linewidth=1.4, label=visible(name),
            marker="o" if len(points) <= _FEW_POINTS else "", markersize=3.2,
        )  # fmt: skip
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    axes.set_ylabel(label)
    highest = [max(value for _, value in points) for _, _, points in curves]
    lowest = min(value for _, _, points in curves for _, value in points)
    if lowest > 0 and max(highest) > 3 * lowest and math.isfinite(max(highest)):
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
        axes.minorticks_off()


def _columns(names: Sequence[str]) -> int:
    return 2 if max(map(len, names)) <= _SHORT_NAME else 1
