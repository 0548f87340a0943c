"""The site of docs/: built strictly, whole without a network, and its reference pages name what there is."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

import gpt
from docs import dag, reference, settings, site
from gpt.commands.main import COMMANDS
from gpt.params.project import load_params
from gpt.params.types import flatten
from tests import ROOT

# Attributes by which a page brings something by itself, or sends its reader somewhere.
_BRINGS = {
    ("script", "src"),
    ("img", "src"),
    ("source", "srcset"),
    ("source", "src"),
    ("iframe", "src"),
    ("link", "href"),
}
_LEADS = {("a", "href")}
_ELSEWHERE = re.compile(r"[a-z]+:|//")


class Built(NamedTuple):
    """What a page of the site brings and leads to, and what can be led to in it."""

    brings: list[str]
    leads: list[str]
    names: set[str]
    classes: set[str]
    text: str


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Built([], [], set(), set(), "")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name"):
                self.page.names.add(value or "")
            if name == "class":
                self.page.classes.update((value or "").split())
            if (tag, name) in _BRINGS:
                self.page.brings.append(value or "")
            if (tag, name) in _LEADS:
                self.page.leads.append(value or "")


def read_page(path: Path) -> Built:
    reader, text = _Reader(), path.read_text(encoding="utf-8")
    reader.feed(text)
    return reader.page._replace(text=text)


def build_site(docs: Path, output: Path) -> None:
    build(load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(output)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build_site(ROOT / "docs", folder)
    return folder


@pytest.fixture(scope="module")
def pages(built: Path) -> dict[str, Built]:
    return {path.relative_to(built).as_posix(): read_page(path) for path in built.rglob("*.html")}


def test_nothing_comes_from_elsewhere(built: Path, pages: dict[str, Built]) -> None:
    assert len(pages) > 20
    for name, page in pages.items():
        assert page.brings, name
        assert not [each for each in page.brings if _ELSEWHERE.match(each) and not each.startswith("data:")], name
        assert not re.search(r"url\(\s*['\"]?(?:https?:)?//", page.text), name
        # The theme would bring Mermaid from the network for a block of it.
        assert "mermaid" not in page.classes, name
    for style in built.rglob("*.css"):
        assert not re.search(r"(?:@import\s+|url\(\s*)['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_every_link_of_a_page_leads_somewhere(built: Path, pages: dict[str, Built]) -> None:
    followed = 0
    for name, page in pages.items():
        if name == "404.html":  # its links begin at the root of a server
            continue
        for link in [*page.brings, *page.leads]:
            if _ELSEWHERE.match(link) or not link:
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (built / name).parent / path if path else built / name
            assert target.is_file(), f"{name}: {link}"
            if anchor and target.suffix == ".html":
                there = target.resolve().relative_to(built.resolve()).as_posix()
                assert anchor in pages[there].names, f"{name}: {link}"
                followed += 1
    assert followed > 100


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in (".md", ".ipynb", ".css", ".png"):
            copy = docs / path.relative_to(ROOT / "docs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    page = docs / "scaling.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[gone](recovery.md#no-such-heading)\n", encoding="utf-8")
    with pytest.raises(Abort):
        build_site(docs, tmp_path / "site")


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "docs/data.md#sources", "data.md#sources"),
        ("index.md", "params.yaml", "source/params.yaml.md"),
        ("index.md", "gpt/params", "reference/params.md"),
        ("architecture.md", "../README.md#the-pipeline", "index.md#the-pipeline"),
        ("attention.md", "../gpt/model/attention.py", "source/gpt/model/attention.py.md"),
        ("contributing.md", "docs/recovery.md", "recovery.md"),
        ("benchmarks/notes.md", "../docs/scaling.md", "../scaling.md"),
        ("benchmarks/results.md", "recipes/short.yaml", "../source/benchmarks/recipes/short.yaml.md"),
        ("reference/params.md", "../recovery.md#what-a-change-costs", "../recovery.md#what-a-change-costs"),
        ("index.md", "docs/images/report.png", "images/report.png"),
        ("index.md", "https://example.org/docs/data.md", "https://example.org/docs/data.md"),
        ("index.md", "#the-pipeline", "#the-pipeline"),
        ("index.md", "no/such/file.md", "no/such/file.md"),
    ],
)
def test_a_link_of_the_git_host_becomes_one_of_the_site(page: str, link: str, expected: str) -> None:
    assert site.site_link(page, link) == expected


def test_the_front_page_shows_the_pipeline(pages: dict[str, Built]) -> None:
    text = pages["index.html"].text
    drawn = re.search(r'<div class="pipeline">.*?</div>', text, re.DOTALL)
    assert drawn
    graph = dag.read_mermaid((ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(re.findall(r"<text[^>]*>(\w+)</text>", drawn[0])) == set(graph)
    assert len(re.findall(r'<path d="M[\d.]+ [\d.]+H', drawn[0])) == sum(map(len, graph.values()))


def test_columns_of_the_pipeline_go_with_the_arrows() -> None:
    graph = {"a": set[str](), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}, "e": {"a", "d"}}
    assert dag.in_columns(graph) == [["a"], ["b", "c"], ["d"], ["e"]]


def test_every_setting_is_in_the_reference_with_its_meaning_and_value(pages: dict[str, Built]) -> None:
    page = settings.params_page()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    for section, values in load_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True).items():
        for key, value in flatten(values, section).items():
            name = (
                key if key in rows else key.rpartition(".")[0]
            )  # keys of an object of figures are none of params.yaml's own
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", rows[name])]
            assert cells[2], f"{key}: nothing says what it means"
            assert cells[3], f"{key}: nothing says what is allowed"
            if isinstance(value, int | float | str) and name == key and value != "":
                shown = str(value).lower() if isinstance(value, bool) else str(value).replace("\n", "⏎")
                assert cells[4].strip("`…") in shown, key
            assert name in pages["reference/params.html"].text


def test_no_key_of_the_reference_lacks_a_meaning_or_what_is_allowed() -> None:
    tables = [row for row in settings.params_page().splitlines() if row.startswith("| `")]
    lacking = [row for row in tables if not all(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[2:4])]
    assert len(tables) > 150
    assert not lacking


def test_what_settings_say_is_read_with_what_they_inherit(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        'class A(Section):\n    """An A."""\n\n    x: int\n    "Of A."\n    y: int\n\n\nclass B(A):\n    y: int\n    "Of B."\n'
    )
    documented = settings.read_docstrings(tmp_path)
    assert documented["A"].text == "An A."
    assert settings._texts("B", documented) == {"x": "Of A.", "y": "Of B."}
    comments = settings.read_comments("a:  # one\n  b: 1   # two\n  # above\n  c: {}\n  d: 'x # y'\ne:\n- f: 3\n")
    assert comments == {"a": "one", "a.b": "two", "a.c": "above"}


def test_every_command_is_in_the_reference_with_its_options(pages: dict[str, Built]) -> None:
    page = reference.commands_page()
    found = dict(reference.leaves("gpt", COMMANDS))
    assert {"gpt pretrain", "gpt data diff", "gpt tokens show"} <= set(found)
    for name, command in found.items():
        _, _, rest = page.partition(f"## {name}\n")
        own = rest.partition("\n## ")[0]
        for parameter in command.params:
            for option in getattr(parameter, "opts", []):
                assert option in own or not option.startswith("-"), f"{name} {option}"
        assert name.replace(" ", "-") in pages["reference/commands.html"].names


def test_every_public_name_of_python_is_in_the_reference(pages: dict[str, Built]) -> None:
    page = reference.python_page()
    for name in vars(gpt.LanguageModel):
        assert name.startswith("_") or f"model.{name}\n" in page or f"| `{name}` |" in page, name
    assert "## gpt.load" in page
    assert "modelgenerate" in pages["reference/python.html"].names
