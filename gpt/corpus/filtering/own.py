"""Filters of one's own: a class in the project's folder, or in a package that is installed, by its dotted path.

It has a method `filter(document)` that returns whether a document stays, or False and the reason, as datatrove's filters do;
`document.text` may be changed, `document.metadata` has `source` and the fields of `prepare.read`, and those that the class names in
`fields = ("score",)`. What params.yaml says beside `class` are its arguments.
"""

import ast
import importlib
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from gpt.code import code_hash, distribution_of
from gpt.errors import UserError
from gpt.params.filters import OwnFilter


class Loaded(NamedTuple):
    """A class of one's own."""

    type: Any
    fields: tuple[str, ...]
    "That it looks at."
    file: Path | None
    "In the project's folder, if it is there."
    distribution: str
    "That it is of otherwise."


class Own(BaseFilter):
    """A filter that calls one's own, which is made in the process that filters: it need not be one that can be pickled."""

    name = "own"

    def __init__(self, settings: OwnFilter) -> None:
        """Make it once, to know now that it can be; raise `UserError` if it cannot."""
        super().__init__()
        self._settings, self._folder = settings, Path.cwd()
        self.name = settings.class_
        _make(settings, self._folder)
        self._filter: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_filter": None}

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Tell whether the document stays; raise `UserError` with the line of what the class raises."""
        if self._filter is None:
            self._filter = _make(self._settings, self._folder)
        about = {"source": doc.metadata["source"], **doc.metadata["fields"]}
        shown = Document(text=doc.text, id=doc.id, metadata=about)
        try:
            result = self._filter.filter(shown)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{_where(self.name)}: document {doc.id}: {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno});"
                " correct the class"
            ) from error
        if not isinstance(shown.text, str):
            raise UserError(f"{_where(self.name)}: document {doc.id}: its text became a {type(shown.text).__name__}")
        doc.text = shown.text
        match result:
            case bool() | np.bool_():
                return bool(result)
            case (bool() | np.bool_() as stays, str() as reason):
                return bool(stays), reason
        raise UserError(
            f"{_where(self.name)}: document {doc.id}: filter returned {result!r}; it must return True or False, or False and"
            " a reason"
        )


def load_class(path: str, folder: Path | None = None) -> Loaded:
    """Import a class by its dotted path, from the project's folder or an installed package; raise `UserError` if it is none."""
    folder = folder or Path.cwd()
    module_name, _, name = path.rpartition(".")
    where = _where(path)
    if not all(part.isidentifier() for part in path.split(".")) or not module_name:
        raise UserError(
            f"{where}: is no dotted path of a class, as my_filters.Poetry for the class Poetry in my_filters.py"
        )
    module = _import(module_name, folder, where)
    file = _file_in(folder, module_name)
    if file and Path(module.__file__ or "").resolve() != file.resolve():
        raise UserError(
            f"{where}: {file.name} of the project is hidden by {module.__file__}; give the file another name"
        )
    found = getattr(module, name, None)
    if not isinstance(found, type):
        there = ", ".join(sorted(key for key, value in vars(module).items() if isinstance(value, type))) or "none"
        raise UserError(f"{where}: {module.__file__} has no class {name} (its classes: {there}); correct the path")
    if not callable(getattr(found, "filter", None)):
        raise UserError(
            f"{where}: is no filter; give it a method filter(self, document) that tells whether a document stays"
        )
    fields = getattr(found, "fields", ())
    if isinstance(fields, str) or not all(isinstance(field, str) for field in fields):
        raise UserError(f'{where}: its `fields` must be names of fields, as ("score",)')
    return Loaded(found, tuple(fields), file, "" if file else distribution_of(module_name) or module_name)


def module_files(own: Loaded) -> dict[str, str]:
    """Return by path the hashes of the file that a class is in and of those of its folder that it imports, comments aside."""
    found: dict[str, str] = {}
    folder = Path.cwd()
    waiting = [own.file] if own.file else []
    while waiting:
        path = waiting.pop()
        key = path.relative_to(folder).as_posix()
        if key not in found:
            found[key] = code_hash(path)
            waiting += [file for name in _imports(path, folder) if (file := _file_in(folder, name))]
    return found


def _import(name: str, folder: Path, where: str) -> Any:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a file there hides no library from anyone
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"{where}: there is no {name.replace('.', '/')}.py in {folder}, nor such a package installed; correct the path"
            ) from None
        raise UserError(f"{where}: cannot be imported, as {error.name} is not installed; install it") from None
    except Exception as error:  # whatever stands in the file
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{where}: cannot be imported ({type(error).__name__}: {error}; {frame.filename}, line {frame.lineno});"
            " correct the file"
        ) from None


def _make(settings: OwnFilter, folder: Path) -> Any:
    own = load_class(settings.class_, folder)
    try:
        return own.type(**settings.arguments)
    except Exception as error:
        given = ", ".join(settings.arguments) or "none"
        raise UserError(
            f"{_where(settings.class_)}: cannot be made with its arguments ({given}): {type(error).__name__}: {error}"
        ) from None


def _file_in(folder: Path, name: str) -> Path | None:
    base = folder.joinpath(*name.split("."))
    candidates = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _imports(path: Path, folder: Path) -> Iterator[str]:
    """Yield the modules that a file may import from, also from a package that it is in."""
    package = path.parent.relative_to(folder).parts
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from filter(None, (base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)))


def _where(path: str) -> str:
    return f"params.yaml: prepare.filters: class {path}"
