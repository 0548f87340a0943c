"""Pictures of the data as SVG to put into a page: text stays text, of the page's colour; the same data give the same bytes."""

import io
import re
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#3b82c4", "#d9822b", "#3d9a50", "#b9507f", "#7a68c9", "#8f8a2e", "#b0574a")  # on white and on black
_KEPT, _GONE = _COLOURS[:2]
_INK = "#010203"  # stands for the page's own colour
_INCHES = 4.3  # as wide as a phone: a wider picture would have small letters there


_Arguments = ParamSpec("_Arguments")
_Drawn = TypeVar("_Drawn")


def in_own_style(draw: Callable[_Arguments, _Drawn]) -> Callable[_Arguments, _Drawn]:
    """Let a function draw in matplotlib's own style: a matplotlibrc of the user's would change the bytes of what a stage writes."""

    @wraps(draw)
    def drawn(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Drawn:
        from matplotlib import rc_context, rcdefaults

        with rc_context():
            rcdefaults()
            return draw(*arguments, **keywords)

    return drawn


@in_own_style
def draw_steps(steps: list[tuple[str, int, int]], unit: str) -> str:
    """Return bars of what is left after each step (blue) and of what it removed (orange); a step is (name, left, removed)."""
    figure = _figure(0.7 + 0.24 * len(steps))
    axes = figure.add_subplot()
    names, lefts, removed = zip(*steps, strict=True)
    places = range(len(steps))
    axes.barh(places, lefts, color=_KEPT, height=0.7)
    axes.barh(places, removed, left=lefts, color=_GONE, height=0.7)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_xlim(0, 1.03 * max(map(sum, zip(lefts, removed, strict=True))))
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.locator_params(axis="x", nbins=5)
    return _svg(figure, f"steps {unit}")


@in_own_style
def draw_lengths(histograms: dict[str, dict[int, int]], unit: str) -> str:
    """Return curves of the share of each source's documents that are [2^N, 2^(N+1)) long; a histogram has counts by N.

    There are as many curves as colours: the first sources have one each, the rest share the last.
    """
    shown = _as_many_as_colours(histograms)
    figure = _figure(2.5 + 0.17 * ((len(shown) + 1) // 2))
    axes = figure.add_subplot()
    first, last = (choose(key for counts in shown.values() for key in counts) for choose in (min, max))
    keys = range(first - 1, last + 2)
    for (name, counts), colour in zip(shown.items(), _COLOURS, strict=False):
        total = sum(counts.values())
        shares = [100 * counts.get(key, 0) / total for key in keys]
        axes.step(keys, shares, where="post", color=colour, label=name, linewidth=1.6)
    axes.set_xticks([key for key in keys if key % 2 == 0])
    axes.xaxis.set_major_formatter(lambda value, _: _power_of_two(round(value)))
    axes.set_xlabel(f"{unit} of a document (each step twice the last)")
    axes.set_ylabel("% of a source's documents")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=_INK)
    return _svg(figure, f"lengths {unit}")


def short_number(value: float, space: str = "") -> str:
    """Return a number as a person says it: 1.5M for 1,500,000; `space` stands before the letter."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{space}{letter}"
    return f"{value:.3g}{space}"


def _as_many_as_colours(histograms: dict[str, dict[int, int]]) -> dict[str, dict[int, int]]:
    if len(histograms) <= len(_COLOURS):
        return histograms
    names = list(histograms)
    own, others = names[: len(_COLOURS) - 1], names[len(_COLOURS) - 1 :]
    rest: Counter[int] = Counter()
    for name in others:
        rest.update(histograms[name])
    return {name: histograms[name] for name in own} | {f"{len(others)} others": rest}


def _power_of_two(exponent: int) -> str:
    """64, 1Ki, 4Mi, …"""
    prefix = max(exponent, 0) // 10
    return f"{2 ** max(exponent - 10 * prefix, 0)}{('', 'Ki', 'Mi', 'Gi', 'Ti')[prefix]}"


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(_INCHES, height), layout="constrained")


def _svg(figure: "Figure", salt: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        for spine in axes.spines.values():
            spine.set_color(_INK)
        axes.tick_params(colors=_INK, labelsize=8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=_INK, fontsize=8)
        axes.patch.set_visible(False)
    for legend in figure.legends:
        for text in legend.get_texts():
            text.set_fontsize(8)
    figure.patch.set_visible(False)
    written = io.StringIO()
    # The names of an SVG's parts are random without a salt, and would meet those of the page's other pictures with the same one.
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "text.parse_math": False}):
        FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg).replace(_INK, "currentColor")
    return re.sub(r"\n\s*\n", "\n", svg)
