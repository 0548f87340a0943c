"""The attention of one prompt as heat maps in SVG: a figure for each layer, a map for each head, tokens as labels."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from gpt.reports.model_page.measured import Measured
from gpt.reports.page import Markup, escape_text, note, table, visible
from gpt.reports.pictures import COLOURS

_GAP, _TITLE, _MAPS_IN_A_ROW = 24, 24, 3
_LEVELS = 20
"So many strengths of colour are told apart."
_LEGEND = (0.05, 0.2, 0.5, 1.0)

Json = dict[str, Any]
Map = list[list[float]]


def describe_attention(models: Sequence[Measured]) -> str:
    """Return figures and tables of what `gpt evaluate` wrote to reports/attention.json, nothing if no model has maps."""
    shown = [model for model in models if model.attention.get("maps")]
    if not shown:
        return ""
    explained = note(
        "A row is a token that looks, a column what it looks at: the darker (on black: the brighter), the more of its"
        " weight; a row adds up to 1. Nothing lies above the diagonal, as no token sees a later one. START stands for the"
        " <|endoftext|> after which every document begins."
    )
    return explained + "".join(
        (f"<h3>{escape_text(model.name)}</h3>\n" if len(models) > 1 else "")
        + _layers(model.attention, f" of {model.name}" if len(models) > 1 else "")
        for model in shown
    )


def _layers(attention: Json, whose: str) -> str:
    """The layers under each other, the last one open."""
    layers: dict[int, list[tuple[int, Map]]] = {}
    for each in attention["maps"]:
        layers.setdefault(each["layer"], []).append((each["head"], each["weights"]))
    return "".join(
        f"<details{' open' if layer == max(layers) else ''}><summary>Layer {layer} of {attention['n_layer']}</summary>\n"
        f"{_draw_layer(heads, attention['tokens'], f'Attention weights of the heads of layer {layer}{whose}')}"
        f"{_habits(heads)}</details>\n"
        for layer, heads in layers.items()
    )


def _draw_layer(heads: list[tuple[int, Map]], tokens: list[str], name: str) -> str:
    names = [_short(token) for token in tokens]
    cell = max(9, min(24, 230 // len(names)))
    label = 10 + max(map(_columns, names)) * min(cell, 12) * 2 // 3
    size = len(names) * cell
    width, height = label + size + _GAP, _TITLE + label + size + _GAP
    parts = []
    for number, (head, weights) in enumerate(heads):
        left, top = (number % _MAPS_IN_A_ROW) * width, (number // _MAPS_IN_A_ROW) * height
        parts.append(f'<g transform="translate({left} {top})">{_draw_map(head, weights, names, cell, label)}</g>')
    rows = -(-len(heads) // _MAPS_IN_A_ROW)
    across, down = min(len(heads), _MAPS_IN_A_ROW) * width, rows * height
    legend = _draw_legend(label, down)
    return Markup(
        f'<div class="scroll"><svg class="attention" style="width: {max(across, 330) / 16:.1f}rem" role="img"'
        f' viewBox="0 0 {max(across, 330)} {down + 34}" font-family="ui-monospace, monospace" fill="currentColor"'
        f' aria-label="{escape_text(name)}">{"".join(parts)}{legend}</svg></div>\n'
    )


def _draw_map(head: int, weights: Map, names: list[str], cell: int, label: int) -> str:
    """Return a map with its labels, `label` wide; cells of the same strength are one path."""
    letters = min(cell, 12)
    left, top, size = label, _TITLE + label, len(names) * cell
    labels = [f'<text x="{left}" y="13" font-size="13" font-weight="600">head {head}</text>']
    for place, token in enumerate(names):
        middle = place * cell + cell / 2 + letters * 0.35
        name = escape_text(token)
        labels.append(
            f'<text x="{left - 4}" y="{top + middle:g}" font-size="{letters}" text-anchor="end">{name}</text>'
        )
        turned = f'transform="rotate(-90 {left + middle:g} {top - 4})"'
        labels.append(f'<text x="{left + middle:g}" y="{top - 4}" font-size="{letters}" {turned}>{name}</text>')
    levels: dict[int, list[str]] = {}
    for row, values in enumerate(weights):
        for column, value in enumerate(values):
            if level := round(_LEVELS * _strength(value)):
                levels.setdefault(level, []).append(
                    f"M{left + column * cell} {top + row * cell}h{cell}v{cell}h-{cell}z"
                )
    cells = "".join(
        f'<path fill="{COLOURS[0]}" fill-opacity="{level / _LEVELS:g}" d="{"".join(found)}"/>'
        for level, found in sorted(levels.items())
    )
    frame = f"M{left} {top}h{size}v{size}h-{size}zM{left} {top}L{left + size} {top + size}"
    return f'{cells}<path d="{frame}" fill="none" stroke="currentColor" stroke-opacity="0.35"/>{"".join(labels)}'


def _draw_legend(first: int, top: int) -> str:
    parts = [f'<text x="{first}" y="{top + 16}" font-size="12">weight</text>']
    for number, value in enumerate(_LEGEND):
        left = first + 56 + 60 * number
        parts.append(
            f'<rect x="{left}" y="{top + 5}" width="14" height="14" fill="{COLOURS[0]}" fill-opacity="{_strength(value):.2f}"/>'
            f'<text x="{left + 18}" y="{top + 16}" font-size="12">{value:g}</text>'
        )
    return "".join(parts)


def _strength(weight: float) -> float:
    """Return how strong the colour of a weight is: by the square root, as most weights are small."""
    return max(weight, 0.0) ** 0.5


def _habits(heads: list[tuple[int, Map]]) -> str:
    """A table of where each head's weight goes, in the mean of all tokens but START, which has no choice."""
    rows = []
    for head, weights in heads:
        looking = list(enumerate(weights))[1:]
        shares = [
            sum(row[choose(place)] for place, row in looking) / len(looking) if looking else 1.0
            for choose in (lambda _: 0, lambda place: place - 1, lambda place: place)
        ]
        rows.append([str(head), *(f"{share:.0%}" for share in shares)])
    return table(["head", "of its weight on START", "on the token before", "on itself"], rows)


def _short(token: str) -> str:
    return token if len(token) <= 10 else f"{token[:9]}…"


def _columns(text: str) -> int:
    """Return how wide a text is in columns of a fixed-width font: letters of East Asian scripts take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in visible(text))
