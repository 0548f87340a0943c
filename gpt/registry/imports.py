"""What a Python file needs to be imported elsewhere: the modules of `gpt` behind it and the distributions behind those.

Read from the source, not from running it: MLflow would load the model and look at what happened to be imported.
Imports inside functions are left out: the code that a model loads with states its imports at the top.
"""

import ast
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import gpt

_PACKAGE = Path(gpt.__file__).parent


def needed_modules(script: Path) -> tuple[list[Path], set[str]]:
    """Return the files of `gpt` that importing `script` imports, and the full names that come from other packages."""
    modules: set[Path] = set()
    others: set[str] = set()
    waiting = [script]
    while waiting:
        for name in _imported_names(waiting.pop()):
            top = name.partition(".")[0]
            if top == "gpt":
                new = set(_files_of(name)) - modules
                modules |= new
                waiting += new
            elif top not in sys.stdlib_module_names:
                others.add(name)
    return sorted(modules), others


def pinned_requirements(names: set[str]) -> list[str]:
    """Return `distribution==version` as installed for imported names; a build's local suffix (`+cpu`) is left out."""
    pins = set()
    for name in names:
        distribution = _distribution(name)
        pins.add(f"{distribution}=={importlib.metadata.version(distribution).partition('+')[0]}")
    return sorted(pins)


def _distribution(name: str) -> str:
    """Return the distribution that `ruamel.yaml.error` comes from: most are named as what they hold."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            return importlib.metadata.distribution(".".join(parts[:length])).name
        except importlib.metadata.PackageNotFoundError:
            continue
    return importlib.metadata.packages_distributions()[parts[0]][0]  # reads every installed package: slow


def _imported_names(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports when it is imported itself."""
    for node in _top_level(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _top_level(child)


def _files_of(name: str) -> Iterator[Path]:
    """The files behind `gpt.model.storage.load_model`: each package's __init__, and the module that holds the name."""
    folder = _PACKAGE
    yield folder / "__init__.py"
    for part in name.split(".")[1:]:
        if (module := folder / f"{part}.py").exists():
            yield module
            return
        folder = folder / part
        if not (package := folder / "__init__.py").exists():
            return
        yield package
