"""What makes one site of README, docs/ and what the code says of itself: MkDocs calls this file while it builds (`make docs`).

Pages are written for the git host, where a link is a path in the repository. Here each becomes a link to the page of that file, and
a file that is no page gets one that shows it, so that the site is whole by itself, without a network and without the host.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs import dag, reference, settings

ROOT = Path(__file__).parents[1]
# Pages whose files lie outside docs/, by their paths in the repository.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "benchmarks/results.md",
    "benchmarks/NOTES.md": "benchmarks/notes.md",
}
# What a page says better than the file itself.
BETTER = {"gpt/params": "reference/params.md"}
_LINK = re.compile(r"""(?<=\]\()[^)\s]+(?=\))|(?<=\ssrc=")[^"]+|(?<=\ssrcset=")[^"]+""")
_MERMAID = re.compile(r"```mermaid\n(.*?)```\n", re.DOTALL)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "bash"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/, and a page for each other file of the repository that a page links to."""
    for source, target in OUTSIDE.items():
        _add(files, config, target, (ROOT / source).read_text(encoding="utf-8"))
    _add(files, config, "reference/params.md", settings.params_page())
    _add(files, config, "reference/commands.md", reference.commands_page())
    _add(files, config, "reference/python.md", reference.python_page())
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        _add(files, config, page_of_notebook(file.src_uri), read_notebook(Path(file.abs_src_path or "")))
    for file in [each for each in files.documentation_pages() if each.src_uri]:
        for link in _LINK.findall(file.content_string):
            path = repository_path(origin(file.src_uri), link.partition("#")[0])
            if path and page_of(path) is None:
                target = f"source/{path}.md"
                if files.get_file_from_path(target) is None:
                    _add(files, config, target, show_file(path))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages of the site, and draw the pipeline, for which Mermaid's own program would come from the network."""
    here = page.file.src_uri
    markdown = _MERMAID.sub(lambda match: dag.draw_svg(dag.read_mermaid(match[1])) + "\n", markdown)
    return _LINK.sub(lambda match: site_link(here, match[0]), markdown)


def origin(page: str) -> str:
    """Return the path in the repository of a page's file: what links in it are relative to."""
    outside = {target: source for source, target in OUTSIDE.items()}
    return outside.get(page, f"docs/{page}")


def repository_path(source: str, link: str) -> str | None:
    """Return the path in the repository that a link in a file leads to; None if it leads to its own page, or away."""
    if not link or re.match(r"[a-z]+:|/", link):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return path if (ROOT / path).exists() else None


def page_of(path: str) -> str | None:
    """Return the page, or the file of the site, that stands for a path of the repository; None if there is none but its own."""
    if path in OUTSIDE or path in BETTER:
        return OUTSIDE.get(path) or BETTER[path]
    if path.endswith(".ipynb"):
        return page_of_notebook(path.removeprefix("docs/"))
    return path.removeprefix("docs/") if path.startswith("docs/") and not path.endswith(".py") else None


def site_link(page: str, link: str) -> str:
    """Return a link of a page as the site has it; what is no path of the repository stays, for MkDocs to judge."""
    target, mark, anchor = link.partition("#")
    path = repository_path(origin(page), target)
    if path is None:
        return link
    return posixpath.relpath(page_of(path) or f"source/{path}.md", posixpath.dirname(page) or ".") + mark + anchor


def page_of_notebook(notebook: str) -> str:
    return notebook.removesuffix(".ipynb") + ".md"


def read_notebook(path: Path) -> str:
    """Return a notebook as Markdown: its texts, and its code as code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    shown = [
        f"```python\n{text}\n```" if cell["cell_type"] == "code" else text
        for cell, text in zip(cells, texts, strict=True)
    ]
    return "\n\n".join(shown) + "\n"


def show_file(path: str) -> str:
    """Return a page that shows a file of the repository, or lists a folder."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(each.name for each in file.iterdir() if each.suffix in _LANGUAGES)
        return "\n".join([f"# {path}", "", *(f"- `{name}`" for name in names), ""])
    fence = "`````"
    return f"# {path}\n\n{fence}{_LANGUAGES.get(file.suffix, 'text')}\n{file.read_text(encoding='utf-8')}\n{fence}\n"


def _add(files: Files, config: MkDocsConfig, page: str, text: str) -> None:
    files.append(File.generated(config, page, content=text))
