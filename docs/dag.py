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

Graph = dict[str, set[str]]
"Stages, each with those that it depends on."


def main() -> int:
    readme = ROOT / "README.md"
    readme.write_text(with_pipeline(readme.read_text(encoding="utf-8"), draw(read_graph())), encoding="utf-8")
    return 0


def read_graph() -> Graph:
    """Return what `dvc dag` says of the project."""
    command = [sys.executable, "-m", "dvc", "dag", "--mermaid"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'^\s*(\w+)\["([^"]+)"\]$', said, re.MULTILINE))
    graph: Graph = {name: set() for name in names.values()}
    for before, after in re.findall(r"^\s*(\w+)-->(\w+)$", said, re.MULTILINE):
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


def with_pipeline(text: str, block: str) -> str:
    """Return README's text with the block between its two marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + block + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    sys.exit(main())
