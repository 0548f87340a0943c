"""What `gpt data add`, `gpt data hash` and `gpt init` write into params.yaml: the lines they mean, in DVC's form, and no others."""

import difflib
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import load_yaml, modify_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.params.changes.editing import add_source, read_sources, set_in_source, write_text
from gpt.params.changes.lines import set_value
from tests import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
SOURCE = {
    "name": "notes",
    "kind": "url",
    "url": "s3://bucket/notes/*.txt",
    "sha256": "12" * 32,  # digits alone: YAML would read a number
    "members": [],
    "licence": "CC BY-SA 4.0; see https://example.org/a: b",
}


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """Return the lines that went and those that came."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in lines if line.startswith("- ")], [line[2:] for line in lines if line.startswith("+ ")]


def parsed(text: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "parsed.yaml").write_text(text, encoding="utf-8")
    return load_yaml(tmp_path / "parsed.yaml")


def test_one_value_is_one_line_and_its_comment_stays() -> None:
    gone, come = changed_lines(TEXT, set_value(TEXT, "train.max_steps", 5000))
    assert (gone, come) == (["  max_steps: 1000"], ["  max_steps: 5000"])
    gone, come = changed_lines(TEXT, set_value(TEXT, "train.batch_size", 64))
    (before,), (after,) = gone, come
    assert after.startswith("  batch_size: 64 ")
    assert (after.index("#"), after.split("#")[1]) == (before.index("#"), before.split("#")[1])


@pytest.mark.parametrize(
    ("key", "value"),
    [("base.name", "my-gpt"), ("prepare.by_source", {"shakespeare": {"read": {"separator": "<|endoftext|>"}}}),
     ("evaluate.benchmarks", []), ("evaluate.prompts", ["# one", "yes: no"]), ("register.gate.max_size_mb", 1.5)],
)  # fmt: skip
def test_the_text_is_the_one_that_dvc_writes(tmp_path: Path, key: str, value: Any) -> None:
    """So that a later `dvc exp run -S` changes no other line."""
    path = tmp_path / "params.yaml"
    path.write_text(set_value(TEXT, key, value), encoding="utf-8")
    mine = path.read_text(encoding="utf-8")
    with modify_yaml(str(path)) as values:
        values["train"]["max_steps"] = 999
    assert changed_lines(mine, path.read_text(encoding="utf-8")) == (["  max_steps: 1000"], ["  max_steps: 999"])


def test_a_section_that_is_not_there_is_a_mistake_of_the_program() -> None:
    with pytest.raises(KeyError):
        set_value(TEXT, "training.max_steps", 1)


@pytest.mark.parametrize("kind", ["sources", "benchmarks"])
def test_a_source_comes_last_and_nothing_else_changes(tmp_path: Path, kind: Any) -> None:
    text = add_source(TEXT, SOURCE, kind)
    gone, come = changed_lines(TEXT, text)
    assert gone == []
    assert come == [
        "  - name: notes",
        "    kind: url",
        "    url: s3://bucket/notes/*.txt",
        f"    sha256: '{'12' * 32}'",
        "    members: []",
        "    licence: 'CC BY-SA 4.0; see https://example.org/a: b'",
    ]
    assert parsed(text, tmp_path)["fetch"][kind][-1] == SOURCE
    assert read_sources(text)[kind][-1] == SOURCE


def test_a_source_into_an_empty_list_stands_in_lines_of_its_own(tmp_path: Path) -> None:
    text = add_source(set_value(TEXT, "fetch.benchmarks", []), SOURCE, "benchmarks")
    assert "  benchmarks:\n  - name: notes\n    kind: url\n" in text
    assert parsed(text, tmp_path)["fetch"]["benchmarks"] == [SOURCE]


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(UserError, match=r"a source named olmes already; give another name \(--name\)"):
        add_source(TEXT, SOURCE | {"name": "olmes"})


def test_a_hash_is_one_line_and_a_new_key_comes_before_the_licence() -> None:
    gone, come = changed_lines(TEXT, set_in_source(TEXT, "olmes", {"sha256": "ab" * 32}))
    assert (len(gone), come) == (1, [f"    sha256: {'ab' * 32}"])
    without = add_source(TEXT, {key: value for key, value in SOURCE.items() if key != "sha256"})
    assert set_in_source(without, "notes", {"sha256": "ab" * 32}).count(
        f"    members: []\n    sha256: {'ab' * 32}\n    licence:"
    )


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(["path", "licence"]), st.text(min_size=1, max_size=90), min_size=1))
def test_any_text_comes_back_as_it_was(found: dict[str, str]) -> None:
    text = set_in_source(add_source("fetch:\n  sources: []\n  benchmarks: []\n", SOURCE), "notes", found)
    (source,) = read_sources(text)["sources"]
    assert source == SOURCE | found


def test_a_file_changes_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    assert write_text(path, TEXT) is False
    for wrong, message in (
        (set_value(TEXT, "train.max_steps", -1), "train.max_steps = -1"),
        (add_source(TEXT, SOURCE | {"url": "https://me:hunter2secret@example.org/a.txt"}), "seems to hold a"),
    ):
        with pytest.raises(UserError, match=message):
            write_text(path, wrong)
        assert path.read_text(encoding="utf-8") == TEXT
    assert write_text(path, set_value(TEXT, "train.max_steps", 7)) is True
    assert "  max_steps: 7\n" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fetch: [", "not valid YAML"),
        ("- a\n", "must hold the sections"),
        ("fetch:\n  sources: 3\n", "must be a list of"),
    ],
)
def test_what_is_no_params_file_is_one_message(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sources(text)
