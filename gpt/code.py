"""What a stage computes with: the code behind it, and the versions of the libraries whose output it keeps.

The code is what the stage's entry imports, inside functions too, hashed without comments, docstrings and layout. DVC's stages
depend on it (`gpt inputs`), and checkpoints and work folders are named by it: a changed comment costs nothing that was computed.
"""

import ast
import hashlib
import importlib.metadata
import json
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gpt

_PACKAGE = Path(gpt.__file__).parent

# Files and rooms that change no byte of any stage's output, and why. What is not named here counts.
_NEUTRAL = {
    "__init__.py": "holds the version",
    "addresses.py": "where servers are",
    "code.py": "describes the code",
    "entry.py": "how a process begins and ends",
    "errors.py": "says what is wrong",
    "evaluation/benchmarks/probe.py": "is told to MLflow only",
    "files.py": "writes and hashes bytes that others made; tests pin the form of JSON and of hashes",
    "git.py": "names versions",
    "limits.py": "how much at a time",
    "locks.py": "who waits for whom",
    "memory.py": "says what is wrong",
    "paths.py": "says where files lie",
    "secrets": "hides what nobody may see, and refuses files that show it",
    "params": "settings count by their values",
    "processes/cores.py": "as machine.py",
    "processes/environment.py": "refuses what would compute something else",
    "processes/launch.py": "which processes there are",
    "processes/machine.py": "measures and describes, and decides nothing",
    "processes/peaks.py": "as machine.py",
    "processes/signals.py": "when training stops, not what it computes",
    "processes/workers.py": "starts processes",
    "processes/owner.py": "ends processes",
    "sources/refusals.py": "says what is wrong",
    "sources/stores/cache.py": "what is here already, by its hash",
    "sources/stores/credentials.py": "who asks, not what comes",
    "sources/stores/parallel.py": "how much at a time",
    "tasks/slurm.py": "as executors.py",
    "tasks/marking.py": "when a task counts as done",
    "tasks/executors.py": "where tasks run; tests compare the bytes",
    "tasks/steps.py": "when files are on the disk",
    "tasks/work.py": "what is done already",
    "tokens/encoding.py": "says what a tokenizer can do",
    "tokens/epochs.py": "tells and refuses",
    "tokens/roundtrip.py": "tells",
    "tokens/verification.py": "refuses bytes, and makes none",
    "tracking": "tells MLflow and the terminal",
    "training/checkpoints/adoption.py": "whose checkpoint a run goes on from is said in its lineage",
    "training/checkpoints/checkpoint.py": "keeps what was computed; another FORMAT is refused",
    "training/steps/compilation.py": "how passes are computed, up to the last digits",
    "training/checkpoints/fingerprint.py": "names the run",
    "training/checkpoints/stable.py": "as checkpoint.py; tests compare the bytes",
    "training/checkpoints/status.py": "is told to a person",
    "training/meters.py": "measures",
    "training/checkpoints/saver.py": "as checkpoint.py",
}
# Imports of what judges, carries or shows what others computed.
_NEUTRAL_IMPORTS = (
    "datatrove.data", "datatrove.executor", "datatrove.pipeline.base", "datatrove.utils.logging", "dvc", "fsspec",
    "huggingface_hub", "mlflow",
    "prefect", "psutil", "pydantic", "ruamel.yaml", "safetensors",
)  # fmt: skip
# What libraries themselves compute with, and pin loosely.
_UNDERNEATH = {
    "datatrove.pipeline.extractors": ("courlan", "htmldate", "justext", "lxml", "trafilatura"),
    "datatrove.pipeline.filters": ("nltk", "spacy"),
}


class Stage(NamedTuple):
    """Where a stage's code begins, and what of it the stage does not compute with."""

    entries: tuple[str, ...]
    "Files of the package that count always; their imports are followed."
    without: tuple[str, ...] = ()
    "Files and rooms of the package that are not followed, and libraries, besides the neutral ones."


STAGES = {
    "fetch": Stage(("sources/fetch.py",)),
    "fetch_benchmarks": Stage(("sources/benchmarks.py",)),
    # What training makes of the weights is training's. Which version an alias names is told apart by `gpt inputs`.
    "fetch_weights": Stage(
        ("registry/initial/weights.py",), ("registry/versions.py", "registry/initial/origin.py", "sources")
    ),
    # `Prepare.of` decides what is done to a source's documents. What the room of sources brought is data.
    "prepare": Stage(("corpus/prepare.py", "params/corpus.py"), ("sources",)),
    "tokenizer": Stage(("tokens/tokenizer.py", "corpus/documents.py"), ("sources", "tokens/shards.py")),
    "tokenize": Stage(("tokens/tokenize.py",), ("sources",)),
    "data_card": Stage(("reports/data_card.py",), ("corpus", "tokens")),
    # Of a tokenizer training knows the size and the end of a document; tokens count by their hash.
    "pretrain": Stage(("training/pretrain.py",), ("corpus", "tokens/tokenizer.py", "tiktoken")),
    # `Evaluate.of` decides how many items are asked, and after how many examples.
    "evaluate": Stage(("evaluation/evaluate.py", "params/evaluation.py"), ("corpus", "sources")),
    "report": Stage(("reports/evaluation.py",), ("corpus", "evaluation", "tokens", "training")),
}

# Of finetuning/dvc.yaml, for each recipe.
FINETUNE_STAGES = {
    "finetune_data": Stage(("finetuning/data/prepare.py",), ("sources",)),
    # Of the tokenizer training knows the size; examples count by their hash.
    "finetune": Stage(
        ("finetuning/jobs/instruct.py", "finetuning/jobs/classify.py", "finetuning/jobs/prefer.py", "training/run.py"),
        ("corpus", "finetuning/judging", "sources", "tokens/tokenizer.py", "tiktoken"),
    ),
    "evaluate_finetuned": Stage(("finetuning/judging/evaluate.py",), ("corpus", "sources")),
    "report_finetuned": Stage(("reports/finetuned.py",), ("corpus", "evaluation", "sources", "tokens", "training")),
}

# Parts of stages whose work is kept by itself.
PARTS = {"encode": Stage(("tokens/encode.py",), ("sources", "tokens/shards.py", "rustbpe"))}
_SHOWN_DIFFERENCES = 12


def stage_identity(stage: str) -> dict[str, dict[str, str]]:
    """Return `code`, the hash of each file by its path, and `versions`, of each library and of Unicode's tables in Python."""
    files = stage_files(stage)
    code = {_name(path): code_hash(path) for path in files}
    imports = {name for path in files for name in imported_names(path, inside_functions=True)}
    counted = {name for name in imports if not _is_under(name, _NEUTRAL_IMPORTS)}
    libraries = {library for name in counted if (library := _library(name))}
    libraries |= {
        library
        for above, below in _UNDERNEATH.items()
        if any(_is_under(name, (above,)) for name in counted)
        for library in below
    }
    libraries -= set(_stage(stage).without)
    versions = {name: installed_version(name) for name in sorted(libraries)}
    if "unicodedata" in imports:
        versions["Unicode"] = unicodedata.unidata_version
    return {"code": code, "versions": versions}


def describe_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs between two identities, a line each: `settings` with both values, `inputs`, `code` files, `versions`."""
    lines = []
    for part in ("settings", "inputs", "code", "versions"):
        old, new = before.get(part, {}), now.get(part, {})
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                lines.append(_difference(part, key, old.get(key), new.get(key)))
    left = len(lines) - _SHOWN_DIFFERENCES
    return lines if left <= 0 else [*lines[:_SHOWN_DIFFERENCES], f"and {left} more"]


def _difference(part: str, key: str, old: Any, new: Any) -> str:
    match part:
        case "settings":
            return f"params.yaml: {key} was {_shown(old)}, is {_shown(new)}"
        case "inputs":
            return f"{key}: {'new' if old is None else 'gone' if new is None else 'other content'}"
        case "code":
            return f"{key}: {'new' if old is None else 'gone' if new is None else 'computes otherwise'}"
        case _:
            return f"version of {key}: was {old or 'none'}, is {new or 'none'}"


def _shown(value: Any) -> str:
    return "not there" if value is None else json.dumps(value, ensure_ascii=False)


@cache
def stage_files(stage: str) -> tuple[Path, ...]:
    """Return the files that a stage computes with, sorted by path; raise `KeyError` for a stage that is none."""
    entries, without = _stage(stage)
    found = {_PACKAGE / entry for entry in entries}
    waiting = list(found)
    while waiting:
        for name in imported_names(waiting.pop(), inside_functions=True):
            new = {path for path in files_of(name) if _counts(path, without)} - found
            found |= new
            waiting += new
    return tuple(sorted(found))


def _stage(name: str) -> Stage:
    return (STAGES | FINETUNE_STAGES | PARTS)[name]


def _counts(path: Path, without: tuple[str, ...]) -> bool:
    relative = path.relative_to(_PACKAGE)
    if relative.name == "__init__.py" and not path.stat().st_size:
        return False
    names = {relative.as_posix(), *(parent.as_posix() for parent in relative.parents)}
    return names.isdisjoint(_NEUTRAL) and names.isdisjoint(without)


@cache
def code_hash(path: Path) -> str:
    """Return the SHA-256 of a Python file's syntax tree without docstrings: comments and layout are not in it."""
    digest = hashlib.sha256()
    for piece in _canonical(ast.parse(path.read_bytes())):
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _canonical(node: Any) -> Iterator[str]:
    """Yield a syntax tree as text, the same in every version of Python: what is absent or empty is left out."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for field, value in ast.iter_fields(node):
            if value is None or value == [] or field in ("kind", "ctx", "type_comment"):
                continue
            yield f" {field}="
            yield from _canonical(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            is_docstring = (
                isinstance(item, ast.Expr)
                and isinstance(item.value, ast.Constant)
                and isinstance(item.value.value, str)
            )
            if not is_docstring:  # nor any other string that stands by itself
                yield from _canonical(item)
        yield "]"
    else:
        yield f"{type(node).__name__}:{node!r};"


@cache
def imported_names(path: Path, *, inside_functions: bool) -> tuple[str, ...]:
    """Return the full names that a file imports when it is imported itself, and `inside_functions` those that its functions import.

    `import a.b` gives `a.b`, `from a import b` gives `a.b`. What stands under `if TYPE_CHECKING` is never imported.
    """
    names: list[str] = []
    for node in _statements(ast.parse(path.read_bytes()), inside_functions):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: imports here are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(names)


def _statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
            continue
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _statements(child, inside_functions)


def files_of(name: str) -> Iterator[Path]:
    """Yield the files behind `gpt.model.storage.load_model`: each package's __init__, and the module that holds the name."""
    folder, (top, *parts) = _PACKAGE, name.split(".")
    if top != _PACKAGE.name:
        return
    yield folder / "__init__.py"
    for part in parts:
        if (module := folder / f"{part}.py").exists():
            yield module
            return
        folder = folder / part
        if not (package := folder / "__init__.py").exists():
            return
        yield package


def _is_under(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _library(name: str) -> str | None:
    """Return the distribution that an imported name is of, None for Python's own and ours."""
    top = name.partition(".")[0]
    if top == _PACKAGE.name or top in sys.stdlib_module_names:
        return None
    return distribution_of(name) or top


@cache
def distribution_of(name: str) -> str | None:
    """Return the distribution that a name such as `ruamel.yaml.error` is imported from, None if it is not installed."""
    parts = name.split(".")  # most are named as what they hold
    for length in range(len(parts), 0, -1):
        try:
            return importlib.metadata.distribution(".".join(parts[:length])).name
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
    found = importlib.metadata.packages_distributions().get(parts[0])  # reads every installed package: slow
    return min(found) if found else None  # their order is that of a directory


@cache
def installed_version(distribution: str) -> str:
    """Return a distribution's version without a build's local suffix (`+cpu`), or "none" if it is not installed."""
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _name(path: Path) -> str:
    return path.relative_to(_PACKAGE.parent).as_posix()
