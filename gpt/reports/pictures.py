"""Pictures as SVG to put into a page: text stays text, of the page's colour; the same data give the same bytes.

Here are those of the data card, and what all pictures have in common; gpt/reports/model_page/charts.py has the evaluation's.
"""

import io
import re
from collections import Counter
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart in colour blindness. The first four stand out on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
_KEPT, _GONE = COLOURS[:2]
INK = "#010203"  # stands for the page's own colour
_INCHES = 4.3  # as wide as a phone: a wider picture would have small letters there


_Arguments = ParamSpec("_Arguments")
_Drawn = TypeVar("_Drawn")


def in_own_style(draw: Callable[_Arguments, _Drawn]) -> Callable[_Arguments, _Drawn]:
    """Let a function draw in matplotlib's own style: a matplotlibrc of the user's would change the bytes of what a stage writes."""

    @wraps(draw)
    def drawn(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Drawn:
        from matplotlib import rc_context, rcdefaults, rcParams

        with rc_context():
            rcdefaults()
            rcParams["text.parse_math"] = False  # a name may hold a $
            return draw(*arguments, **keywords)

    return drawn


@in_own_style
def draw_steps(steps: list[tuple[str, int, int]], unit: str) -> str:
    """Return bars of what is left after each step (blue) and of what it removed (orange); a step is (name, left, removed)."""
    figure = new_figure(0.7 + 0.24 * len(steps))
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
    return to_svg(figure, f"{unit} after each step")


@in_own_style
def draw_lengths(histograms: dict[str, dict[int, int]], unit: str) -> str:
    """Return curves of the share of each source's documents that are [2^N, 2^(N+1)) long; a histogram has counts by N.

    There are as many curves as colours: the first sources have one each, the rest share the last.
    """
    shown = _as_many_as_colours(histograms)
    figure = new_figure(2.5 + 0.17 * ((len(shown) + 1) // 2))
    axes = figure.add_subplot()
    first, last = (choose(key for counts in shown.values() for key in counts) for choose in (min, max))
    keys = range(first - 1, last + 2)
    for (name, counts), colour in zip(shown.items(), COLOURS, strict=False):
        total = sum(counts.values())
        shares = [100 * counts.get(key, 0) / total for key in keys]
        axes.step(keys, shares, where="post", color=colour, label=name, linewidth=1.6)
    axes.set_xticks([key for key in keys if key % 2 == 0])
    axes.xaxis.set_major_formatter(lambda value, _: _power_of_two(round(value)))
    axes.set_xlabel(f"{unit} of a document (each step twice the last)")
    axes.set_ylabel("% of a source's documents")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=INK)
    return to_svg(figure, f"lengths of documents in {unit}")


def short_number(value: float, space: str = "") -> str:
    """Return a number as a person says it: 1.5M for 1,500,000; `space` stands before the letter."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{space}{letter}"
    return f"{value:.3g}{space}"


def _as_many_as_colours(histograms: dict[str, dict[int, int]]) -> dict[str, dict[int, int]]:
    if len(histograms) <= len(COLOURS):
        return histograms
    names = list(histograms)
    own, others = names[: len(COLOURS) - 1], names[len(COLOURS) - 1 :]
    rest: Counter[int] = Counter()
    for name in others:
        rest.update(histograms[name])
    return {name: histograms[name] for name in own} | {f"{len(others)} others": rest}


def _power_of_two(exponent: int) -> str:
    """64, 1Ki, 4Mi, …"""
    prefix = max(exponent, 0) // 10
    return f"{2 ** max(exponent - 10 * prefix, 0)}{('', 'Ki', 'Mi', 'Gi', 'Ti')[prefix]}"


def new_figure(height: float) -> "Figure":
    """Return a figure as wide as a phone and so many inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_INCHES, height), layout="constrained")


def to_svg(figure: "Figure", label: str) -> str:
    """Return a figure as SVG; `label`, which no other picture of the page has, is what it is called where it cannot be seen."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        for spine in axes.spines.values():
            spine.set_color(INK)
        axes.tick_params(colors=INK, labelsize=8)
        for text in (axes.xaxis.label, axes.yaxis.label):
            text.set(color=INK, fontsize=8)
        axes.patch.set_visible(False)
    for legend in figure.legends:
        for text in legend.get_texts():
            text.set_fontsize(8)
    figure.patch.set_visible(False)
    written = io.StringIO()
    # The names of an SVG's parts are random without a salt, and would meet those of the page's other pictures with the same one.
    with rc_context({"svg.hashsalt": label, "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg).replace(INK, "currentColor")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    return re.sub(r"\n\s*\n", "\n", svg)
