"""Draw the pipeline into README.md as DVC knows it: `python -m docs.dag`, after a change of dvc.yaml.

An arrow that follows from others is left out: everything depends on what `inputs` writes, and the picture would show little else.
"""

import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- python -m docs.dag -->\n", "<!-- end -->\n"

# Of the picture, in its own units: text is 12 high.
_ROW, _BOX, _GAP = 44, 26, 24
_HEAD = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z"/></marker></defs>'
)

Graph = dict[str, set[str]]
"Stages, each with those that it depends on."


def main() -> int:
    readme = ROOT / "README.md"
    readme.write_text(with_pipeline(readme.read_text(encoding="utf-8"), draw(read_graph())), encoding="utf-8")
    return 0


def read_graph() -> Graph:
    """Return what `dvc dag` says of the stages of dvc.yaml, which make the base model."""
    command = [sys.executable, "-m", "dvc", "dag", "--mermaid"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'^\s*(\w+)\["([^"]+)"\]$', said, re.MULTILINE))
    graph: Graph = {name: set() for name in names.values() if "/" not in name}
    for before, after in re.findall(r"^\s*(\w+)-->(\w+)$", said, re.MULTILINE):
        if names[after] in graph:
            graph[names[after]].add(names[before])
    return graph


def without_shortcuts(graph: Graph) -> Graph:
    """Leave out each dependency that another one has too: what comes before what stays the same (transitive reduction)."""
    return {name: needs - {far for near in needs for far in ancestors(graph, near)} for name, needs in graph.items()}


def ancestors(graph: Graph, name: str) -> set[str]:
    """Return all that a stage depends on, however far."""
    return graph[name].union(*(ancestors(graph, need) for need in graph[name]))


def draw(graph: Graph) -> str:
    """Return a Mermaid block, which GitHub draws."""
    reduced = without_shortcuts(graph)
    order = list(TopologicalSorter({name: sorted(reduced[name]) for name in sorted(reduced)}).static_order())
    arrows = [f"    {need} --> {name}" for name in order for need in sorted(reduced[name], key=order.index)]
    return "\n".join(["```mermaid", "flowchart LR", *arrows, "```", ""])


def read_mermaid(text: str) -> Graph:
    """Return the graph of a Mermaid block that `draw` wrote."""
    graph: Graph = {}
    for need, name in re.findall(r"^ +(\w+) --> (\w+)$", text, re.MULTILINE):
        graph.setdefault(need, set())
        graph.setdefault(name, set()).add(need)
    return graph


def draw_svg(graph: Graph) -> str:
    """Return a graph as a picture in a page, from left to right: a column holds what needs something of the column before it.

    It takes the colour of the text around it.
    """
    columns = in_columns(graph)
    height = _ROW * max(map(len, columns))
    places: dict[str, tuple[float, float, float]] = {}
    left = 1.0
    for column in columns:
        width = max(map(_width, column))
        gap = height / len(column)
        places |= {name: (left, (row + 0.5) * gap, width) for row, name in enumerate(column)}
        left += width + _GAP
    shapes = []
    for name, (x, y, width) in places.items():
        for need in sorted(graph[name]):
            from_x, from_y, from_width = places[need]
            start, middle = from_x + from_width, x - _GAP / 2
            shapes.append(
                f'<path d="M{start:g} {from_y:g}H{middle - _GAP / 4:g}L{middle + _GAP / 4:g} {y:g}H{x - 1:g}"/>'
            )
        box = f'<rect x="{x:g}" y="{y - _BOX / 2:g}" width="{width:g}" height="{_BOX}" rx="5"/>'
        shapes.append(f'{box}<text x="{x + width / 2:g}" y="{y + 4:g}">{name}</text>')
    title = f"<title>{', '.join(name for column in columns for name in column)}</title>"
    view = f'viewBox="0 0 {left - _GAP + 1:g} {height}" width="{left - _GAP + 1:g}"'
    return f'<div class="pipeline"><svg {view} role="img">{title}{_HEAD}{"".join(shapes)}</svg></div>'


def in_columns(graph: Graph) -> list[list[str]]:
    """Return the names in columns: each as far to the left as what it needs allows, and near that in its column."""
    depths: dict[str, int] = {}
    for name in TopologicalSorter({name: sorted(graph[name]) for name in sorted(graph)}).static_order():
        depths[name] = 1 + max((depths[need] for need in graph[name]), default=-1)
    return [sorted(name for name in depths if depths[name] == depth) for depth in range(max(depths.values()) + 1)]


def _width(name: str) -> float:
    return 7.2 * len(name) + 14


def with_pipeline(text: str, block: str) -> str:
    """Return README's text with the block between its two marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + block + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    sys.exit(main())
