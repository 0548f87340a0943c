"""What a stage computes with counts, and nothing else: comments, docstrings and what computes nothing do not."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import code
from gpt.code import STAGES, code_hash, files_of, imported_names, stage_files, stage_identity

PACKAGE = Path(code.__file__).parent
SOURCE = '''"""What it is for."""

import math  # a comment


def area(radius: float) -> float:
    """Return the area."""
    # why
    return math.pi * radius**2


class Circle:
    """A circle."""

    radius: float
    "In metres."
'''


def hash_of(folder: Path, text: str) -> str:
    path = folder / "module.py"
    path.write_text(text, encoding="utf-8")
    code_hash.cache_clear()
    return code_hash(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# why", "# because"),
        ("  # a comment", ""),
        ('"""What it is for."""', '"""What else."""'),
        ('    """Return the area."""\n', ""),
        ('    "In metres."\n', '    "In miles."\n'),
        ("math.pi * radius**2", "(\n        math.pi * radius**2\n    )"),
        ("\n\n\nclass", "\nclass"),
    ],
)
def test_comments_docstrings_and_layout_change_nothing(tmp_path: Path, old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert hash_of(tmp_path, changed) == hash_of(tmp_path, SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("radius**2", "radius**3"),
        ("radius: float)", "radius: float = 1)"),
        ("return math.pi", "return 2 * math.pi"),
        ("import math", "import cmath as math"),
        ("class Circle:", "class Circle(object):"),
        ("radius**2", "radius**2.0"),
    ],
)
def test_what_computes_changes_the_hash(tmp_path: Path, old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert hash_of(tmp_path, changed) != hash_of(tmp_path, SOURCE)


@given(st.integers(), st.integers())
def test_constants_of_any_value_are_told_apart(one: int, other: int) -> None:
    def text(value: int) -> str:
        return "".join(code._canonical(ast.parse(f"x = {value}")))

    assert (text(one) == text(other)) == (one == other)


def test_strings_that_compute_are_no_docstrings(tmp_path: Path) -> None:
    assert hash_of(tmp_path, "x = 'a'\n") != hash_of(tmp_path, "x = 'b'\n")
    assert hash_of(tmp_path, "f('a')\n") != hash_of(tmp_path, "f('b')\n")


def test_imports_are_found_inside_functions_too_and_not_those_of_types(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport a.b\nif TYPE_CHECKING:\n    import c\n\n\ndef f():\n    from d import e\n",
        encoding="utf-8",
    )
    assert imported_names(path, inside_functions=True) == ("typing.TYPE_CHECKING", "a.b", "d.e")
    assert imported_names(path, inside_functions=False) == ("typing.TYPE_CHECKING", "a.b")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_counts_all_that_its_code_imports_but_what_is_named_as_neutral(stage: str) -> None:
    """The other way round: what was imported by the files that count, and does not count itself, has its reason written down."""
    files = stage_files(stage)
    for path in files:
        for name in imported_names(path, inside_functions=True):
            for needed in files_of(name):
                relative = needed.relative_to(PACKAGE)
                if needed in files or (relative.name == "__init__.py" and not needed.stat().st_size):
                    continue
                above = {relative.as_posix(), *(parent.as_posix() for parent in relative.parents)}
                assert above & {*code._NEUTRAL, *STAGES[stage].without}, f"{stage}: {relative}"


def test_what_is_named_as_neutral_exists() -> None:
    for name in (*code._NEUTRAL, *(name for stage in STAGES.values() for name in stage.entries)):
        assert (PACKAGE / name).exists(), name
    for stage in STAGES.values():
        for name in stage.without:
            assert (PACKAGE / name).exists() or code.distribution_of(name), name


def test_what_training_says_about_itself_does_not_name_the_run() -> None:
    files = {path.relative_to(PACKAGE).as_posix() for path in stage_files("pretrain")}
    assert {"training/steps/step.py", "training/trainer.py", "model/transformer.py", "tokens/batches.py"} <= files
    assert {"model/attention.py", "model/layers.py", "training/steps/optimizer.py", "evaluation/likelihood.py"} <= files
    for name in files:
        assert not name.startswith(("commands", "registry", "reports", "sources", "corpus", "params", "model/convert"))


@pytest.mark.parametrize(
    ("stage", "libraries"),
    [
        ("prepare", {"ftfy", "datatrove", "trafilatura", "lxml", "nltk", "regex", "pyarrow", "Unicode"}),
        ("tokenizer", {"rustbpe", "tiktoken"}),
        ("tokenize", {"tiktoken", "numpy"}),
        ("pretrain", {"torch", "accelerate", "numpy"}),
        ("evaluate", {"torch", "tiktoken"}),
    ],
)
def test_a_stage_depends_on_the_libraries_whose_output_it_keeps(stage: str, libraries: set[str]) -> None:
    versions = stage_identity(stage)["versions"]
    assert libraries <= versions.keys()
    assert not versions.keys() & {"pydantic", "mlflow", "prefect", "dvc", "rich"}
    assert all("+" not in version for version in versions.values()), "a build's local suffix is none of the version"


def test_the_identity_is_the_same_in_every_process() -> None:
    script = "import json; from gpt.code import *; print(json.dumps({name: stage_identity(name) for name in STAGES}))"
    seen = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(PACKAGE.parent)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1
