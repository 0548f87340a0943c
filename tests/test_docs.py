"""What README and docs/ draw is what there is: the pipeline, the rooms and their order, the pictures."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import matplotlib.image
import numpy as np
import pytest

from docs import dag, two_ways
from gpt.commands.main import COMMANDS
from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def rooms() -> list[str]:
    """Rooms in the order of docs/architecture.md, the lowest first."""
    table = ARCHITECTURE.split("## Rooms")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [room for cell in cells for room in re.findall(r"`(\w+)`", cell)]


def test_readme_shows_the_pipeline_that_dvc_knows() -> None:
    graph = dag.read_graph()
    assert dag.with_pipeline(README, dag.draw(graph)) == README, "python -m docs.dag draws it anew"


def test_arrows_that_are_left_out_follow_from_those_that_stay() -> None:
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}, "e": {"b"}}
    reduced = dag.without_shortcuts(graph)
    assert reduced == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}, "e": {"b"}}
    assert {name: dag.ancestors(reduced, name) for name in graph} == {
        name: dag.ancestors(graph, name) for name in graph
    }
    assert "    c --> d\n" in dag.draw(graph)


def test_every_room_is_told_of_and_drawn() -> None:
    there = {path.stem if path.is_file() else path.name for path in (ROOT / "gpt").iterdir() if path.name[0] != "_"}
    assert sorted(rooms()) == sorted(there)
    folders = {room for room in there if (ROOT / "gpt" / room).is_dir()}
    bars = {word for name, *_ in two_ways.BASES for word in name.split(" · ")}
    assert folders <= two_ways.ROOMS.keys() | bars
    assert set(re.findall(r"`(\w+)/`", next(line for line in README.splitlines() if line.startswith("| `gpt/`")))) == {
        "gpt",
        *folders,
    }


def imports(path: Path) -> Iterator[str]:
    """Yield the rooms that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("gpt."))
        yield from (name for name in names if name.split(".")[0] == "flows")


def test_no_import_runs_up_the_rooms() -> None:
    floor = {room: number for number, room in enumerate(rooms())}
    for path in sorted((ROOT / "gpt").rglob("*.py")):
        room = path.relative_to(ROOT / "gpt").parts[0].removesuffix(".py")
        if room in floor:
            up = [name for name in imports(path) if floor.get(name, len(floor) * (name[0] != "_")) > floor[room]]
            assert not up, f"{path} imports {up}"


@pytest.mark.parametrize("theme", two_ways.THEMES)
def test_the_picture_is_drawn_as_it_was_committed(tmp_path: Path, theme: str) -> None:
    assert two_ways.main(["--output", str(tmp_path)]) == 0
    name = f"two_ways_{theme}.png"
    drawn, committed = (matplotlib.image.imread(folder / name) for folder in (tmp_path, ROOT / "docs/images"))
    assert drawn.shape == committed.shape
    assert np.abs(drawn - committed).mean() < 0.01, "python -m docs.two_ways; fonts may differ a little"
    assert f"images/{name}" in ARCHITECTURE


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "docs/model.ipynb"])


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words after `gpt` of each command that a page shows: in a line of a block of code, or in code within a line."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from (line.partition(" #")[0].split()[1:] for line in block.splitlines() if line.startswith("gpt "))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (span.split()[1:] for span in re.findall(r"(?<!`)`(gpt [^`]+)`", prose))


def why_unknown(words: list[str]) -> str | None:
    """Return what `gpt WORDS` names that there is not: a command, or an option of it."""
    command: click.Command = COMMANDS
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0).rstrip(",;")
        if name.isupper() or name == "…":  # a place for any
            return None
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
    given = {match[0] for word in rest if (match := re.match(r"\[?(--[\w-]+)", word))}
    unknown = sorted(option.lstrip("[") for option in given if option.lstrip("[") not in known)
    return f"no option {', '.join(unknown)} of {command.name}" if unknown else None


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_that_a_page_shows_exists(path: Path) -> None:
    unknown = {
        " ".join(words): why for words in commands_in(path.read_text(encoding="utf-8")) if (why := why_unknown(words))
    }
    assert unknown == {}


def test_commands_are_found_and_judged() -> None:
    page = (
        "Run `gpt pretrain --adopt X` or `gpt pretrian`.\n```bash\ngpt data diff HEAD --worse  # no\ndvc repro\n```\n"
    )
    found = {" ".join(words): why_unknown(words) for words in commands_in(page)}
    assert found == {
        "data diff HEAD --worse": "no option --worse of diff",
        "pretrain --adopt X": None,
        "pretrian": "no command pretrian",
    }
    shown = [words for path in PAGES for words in commands_in(path.read_text(encoding="utf-8"))]
    assert len(shown) > 100


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target
