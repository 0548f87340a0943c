"""`dvc exp run -S key=value` writes params.yaml anew: only the lines of that key change, and no comment is lost."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides  # what `dvc exp run -S` calls
from dvc.utils.serialize import load_yaml, modify_yaml

from gpt.params.project import load_params
from tests import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
VALUES: dict[str, Any] = load_yaml(ROOT / "params.yaml")


def keys(values: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the places of all values: numbers, words, lists, and mappings that are empty."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from keys(value, (*place, name))
        else:
            yield (*place, name)


def value_at(values: dict[str, Any], place: tuple[str, ...]) -> Any:
    return reduce(getitem, place, values)


def set_value(values: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    value_at(values, place[:-1])[place[-1]] = value


def override(place: tuple[str, ...]) -> tuple[str, Any]:
    """Return what follows `-S` to give a key another value, and that value."""
    key, value = ".".join(place), value_at(VALUES, place)
    match value:
        case bool():
            return f"{key}={str(not value).lower()}", not value
        case int():
            return f"{key}={value + 1}", value + 1
        case float():
            return f"{key}={value + 1.5}", value + 1.5
        case str():
            return f"{key}='#1'", "#1"
        case dict():
            return f"+{key}.first={{second: third}}", {"first": {"second": "third"}}
        case _:
            return (f"{key}=[]", []) if value else (f"{key}=[first,second]", ["first", "second"])


def comments(text: str) -> list[str]:
    return re.findall(r"(?:^|\s)# .*", re.sub(r"'[^'\n]*'", "", text))


@pytest.mark.parametrize("place", list(keys(VALUES)), ids=".".join)
def test_only_the_lines_of_a_key_change_when_it_is_set(tmp_path: Path, place: tuple[str, ...]) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    argument, value = override(place)
    apply_overrides(str(path), [argument])
    text = path.read_text(encoding="utf-8")

    expected = load_yaml(ROOT / "params.yaml")
    set_value(expected, place, value)
    assert load_yaml(path) == expected, "that key has its new value, all others theirs"
    assert comments(text) == comments(TEXT)
    before, after = TEXT.splitlines(), text.splitlines()
    changes = [
        change for change in SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if change[0] != "equal"
    ]
    ((_, first, end, new_first, new_end),) = changes
    head = f"{'  ' * (len(place) - 1)}{place[-1]}:"
    assert before[first].startswith(head)
    assert after[new_first].startswith(head)
    if not isinstance(value, list | dict):
        assert (end, new_end) == (first + 1, new_first + 1)

    with modify_yaml(str(path)) as values:
        set_value(values, place, value_at(VALUES, place))
    assert path.read_text(encoding="utf-8") == TEXT, "and back"


def test_the_file_is_what_its_own_settings_read(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    assert {name: params.section(name) for name in VALUES} == VALUES, "DVC's reader and ours agree on every value"
