"""Draw the two ways through the rooms of gpt/, a document's and a run's: `python -m docs.two_ways`.

Two pictures, for GitHub's light and dark themes; docs/architecture.md shows the one that fits.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

Point = tuple[float, float]


@dataclass(frozen=True)
class Theme:
    background: str
    text: str
    faint: str
    document: str
    run: str
    plain: str


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#ddf4ff", "#fff1e5", "#f0f2f4"),
    "dark": Theme("#0d1117", "#f0f6fc", "#9198a1", "#0c2d56", "#4b2a10", "#21262d"),
}

WIDTH, HEIGHT = 1.5, 0.8
TOP, RAIL, MIDDLE, BOTTOM = 4.3, 3.55, 2.75, 1.4
"Heights: of the document's way, of the line that its tokens take, of what both use, of the run's way."
COLUMNS = (0.95, 3.35, 5.75, 8.15, 10.5)

# Room: its middle, its colour, and a word on what it does.
ROOMS: dict[str, tuple[Point, str, str]] = {
    "sources": ((COLUMNS[1], TOP), "document", "fetch, by hash"),
    "corpus": ((COLUMNS[2], TOP), "document", "clean, deduplicate"),
    "tokens": ((COLUMNS[3], TOP), "document", "encode, batch"),
    "tracking": ((COLUMNS[0], MIDDLE), "plain", "MLflow"),
    "model": (((COLUMNS[1] + COLUMNS[2]) / 2, MIDDLE), "plain", "the GPT"),
    "reports": ((COLUMNS[3], MIDDLE), "plain", "pages, pictures"),
    "processes": ((COLUMNS[0], BOTTOM), "run", "one of many"),
    "training": ((COLUMNS[1], BOTTOM), "run", "step by step"),
    "evaluation": ((COLUMNS[2], BOTTOM), "run", "bits per byte"),
    "registry": ((COLUMNS[3], BOTTOM), "run", "versions, gate"),
    "finetuning": ((COLUMNS[4], MIDDLE), "run", "labelled data"),
    "serving": ((COLUMNS[4], TOP), "run", "OpenAI's API"),
}
BASES = (
    (
        "sweeps · maintenance · projects · commands",
        "one `gpt` command for each stage; DVC and the flow (flows/) run them",
        5.4,
    ),
    (
        "params · tasks · secrets · errors · files · paths",
        "what all rooms stand on: settings, pieces of work side by side",
        0.35,
    ),
)


def main(arguments: list[str] | None = None) -> int:
    """Draw the picture in both themes; return the exit code."""
    parser = argparse.ArgumentParser(description="Draw the picture of docs/architecture.md.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images", help="folder of the pictures")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, theme in THEMES.items():
        path = options.output / f"two_ways_{name}.png"
        FigureCanvasAgg(draw(theme)).print_png(str(path), metadata={"Software": None})
        print(path)
    return 0


def draw(theme: Theme) -> Figure:
    """Return the picture: the document's way above, the run's way below, and what both use between them."""
    figure = Figure(figsize=(11.6, 5.9), dpi=120, facecolor=theme.background)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 11.6), ylim=(-0.1, 5.8))
    axes.axis("off")
    for name, text, height in BASES:
        _bar(axes, theme, name, text, height)
    for name, (middle, colour, text) in ROOMS.items():
        _room(axes, theme, name, text, middle, getattr(theme, colour))
    _document_way(axes, theme)
    _run_way(axes, theme)
    return figure


def _document_way(axes: Axes, theme: Theme) -> None:
    _caption(axes, theme, "A document's way", TOP)
    _world(axes, theme, "text and\nbenchmarks", (COLUMNS[0], TOP))
    _arrow(axes, theme, (COLUMNS[0] + 0.6, TOP), _side("sources", "left"))
    _arrow(axes, theme, _side("sources", "right"), _side("corpus", "left"), "data/raw")
    _arrow(axes, theme, _side("corpus", "right"), _side("tokens", "left"), "data/\ndocuments")
    _arrow(axes, theme, _side("tokens", "bottom"), _side("reports", "top"))
    training, evaluation = (
        _side(name, "top")[0] + shift for name, shift in (("training", -0.35), ("evaluation", 0.35))
    )
    axes.plot([COLUMNS[3], training], [RAIL, RAIL], color=theme.faint, linewidth=1.4)
    for x in (training, evaluation):
        _arrow(axes, theme, (x, RAIL), (x, BOTTOM + HEIGHT / 2))
    text = "data/tokens, models/tokenizer"
    axes.text((training + evaluation) / 2, RAIL + 0.06, text, ha="center", va="bottom", color=theme.faint, fontsize=8.5)


def _run_way(axes: Axes, theme: Theme) -> None:
    _caption(axes, theme, "A run's way", BOTTOM)
    _arrow(axes, theme, _side("processes", "right"), _side("training", "left"), "starts")
    _arrow(axes, theme, _side("training", "right"), _side("evaluation", "left"), "models/\nbase")
    _arrow(axes, theme, _side("evaluation", "right"), _side("registry", "left"), "metrics/")
    _arrow(axes, theme, _side("registry", "right"), (COLUMNS[4] - 0.65, BOTTOM))
    _world(axes, theme, "models:/NAME\n@champion", (COLUMNS[4], BOTTOM))
    top = BOTTOM + HEIGHT / 2
    _arrow(axes, theme, (COLUMNS[4], BOTTOM + 0.3), (COLUMNS[4], MIDDLE - HEIGHT / 2))
    _arrow(axes, theme, _side("finetuning", "top"), _side("serving", "bottom"))
    _arrow(axes, theme, (COLUMNS[1] - 0.6, top), (COLUMNS[0] + WIDTH / 2, MIDDLE - 0.2))
    model, _ = ROOMS["model"][0]
    for x, start in ((COLUMNS[1] + 0.35, model - 0.35), (COLUMNS[2] - 0.35, model + 0.35)):
        _arrow(axes, theme, (start, MIDDLE - HEIGHT / 2), (x, top))
    _arrow(axes, theme, (COLUMNS[2] + 0.6, top), (COLUMNS[3] - WIDTH / 2, MIDDLE - 0.2))


def _room(axes: Axes, theme: Theme, name: str, text: str, middle: Point, colour: str) -> None:
    x, y = middle
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    box = FancyBboxPatch(
        corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.1", facecolor=colour, edgecolor=theme.faint
    )
    axes.add_patch(box)
    axes.text(x, y + 0.13, name, ha="center", va="center", color=theme.text, fontsize=12.5, fontweight="bold")
    axes.text(x, y - 0.18, text, ha="center", va="center", color=theme.text, fontsize=9.5)


def _bar(axes: Axes, theme: Theme, name: str, text: str, height: float) -> None:
    box = FancyBboxPatch(
        (0.2, height - 0.25), 11.2, 0.5, "round,pad=0,rounding_size=0.1", facecolor=theme.plain, edgecolor=theme.faint
    )
    axes.add_patch(box)
    axes.text(0.4, height, name, va="center", color=theme.text, fontsize=12, fontweight="bold")
    axes.text(11.2, height, text.replace("`", ""), ha="right", va="center", color=theme.text, fontsize=9.5)


def _world(axes: Axes, theme: Theme, text: str, middle: Point) -> None:
    axes.text(*middle, text, ha="center", va="center", color=theme.text, fontsize=9.5)


def _caption(axes: Axes, theme: Theme, text: str, height: float) -> None:
    axes.text(0.2, height + 0.62, text, va="center", color=theme.faint, fontsize=11, fontstyle="italic")


def _arrow(axes: Axes, theme: Theme, start: Point, end: Point, text: str = "") -> None:
    style = {"arrowstyle": "-|>", "color": theme.faint, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.06)
    axes.text(*middle, text, ha="center", va="bottom", color=theme.faint, fontsize=8.5, linespacing=1.0)


def _side(name: str, side: str) -> Point:
    """Return the middle of a side of a room."""
    x, y = ROOMS[name][0]
    dx, dy = {"left": (-1, 0), "right": (1, 0), "top": (0, 1), "bottom": (0, -1)}[side]
    return x + dx * WIDTH / 2, y + dy * HEIGHT / 2


if __name__ == "__main__":
    sys.exit(main())
