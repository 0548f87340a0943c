"""A value is set where it stands, and every other byte stays."""

import string

import pytest
from dvc.utils.serialize._yaml import dumps_yaml, parse_yaml_for_update
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from gpt.errors import UserError
from gpt.params.changes.lines import comment_of, read_entries, set_value
from tests import ROOT

TEXT = """\
# head
a:
  one: 1    # first
  word: 'a # b'  # quoted
  list:
  - x: 1
    y: 2
  # of the next
  empty: {}

b:
  c:
    d: 1.5
# tail
"""
DEFAULT = (ROOT / "params.yaml").read_text(encoding="utf-8")


def values(text: str) -> dict[str, object]:
    return YAML(typ="safe", pure=True).load(text)


def test_a_value_changes_its_line_and_keeps_its_comment() -> None:
    assert set_value(TEXT, "a.one", 1000) == TEXT.replace("one: 1    # first", "one: 1000  # first")
    assert set_value(TEXT, "a.one", 2) == TEXT.replace("one: 1 ", "one: 2 ")


def test_a_comment_is_set_where_those_around_begin() -> None:
    assert set_value(TEXT, "b.c.d", 2.5, "why") == TEXT.replace("    d: 1.5\n", "    d: 2.5       # why\n")
    assert set_value(TEXT, "a.one", 1, "why") == TEXT.replace("# first", "# why")
    assert set_value(TEXT, "a.one", 1, "") == TEXT.replace("    # first", "")


def test_a_list_is_written_anew_and_what_stands_behind_it_stays() -> None:
    changed = set_value(TEXT, "a.list", ["p", "q"])
    assert changed == TEXT.replace("  - x: 1\n    y: 2\n", "  - p\n  - q\n")
    assert set_value(changed, "a.list", []) == TEXT.replace("  list:\n  - x: 1\n    y: 2\n", "  list: []\n")


def test_a_hash_sign_in_quotes_begins_no_comment() -> None:
    assert comment_of(TEXT, "a.word") == "quoted"
    assert set_value(TEXT, "a.word", "c") == TEXT.replace("'a # b'  #", "c        #")


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([key for key, entry in read_entries(DEFAULT).items() if not entry.is_section]),
    st.one_of(
        st.integers(-(10**12), 10**12),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=40),
        st.lists(st.text(string.ascii_letters + ": #'\"\n", max_size=12), max_size=4),
        st.just({}),
    ),
)
def test_of_the_default_settings_any_key_takes_any_value_and_no_other_changes(key: str, value: object) -> None:
    changed = set_value(DEFAULT, key, value)
    own, before = read_entries(changed), read_entries(DEFAULT)
    assert own[key].value == value
    assert list(own) == list(before)
    assert all(own[other].value == before[other].value for other in before if other != key)
    if not isinstance(value, list | dict) and not isinstance(before[key].value, list | dict):
        assert comment_of(changed, key) == comment_of(DEFAULT, key)


@pytest.mark.parametrize("value", ["a\u2028b", "a\x85b", ["c\u2029 d"]])
def test_what_ends_lines_for_some_comes_back_as_it_was(value: object) -> None:
    changed = set_value(TEXT, "a.one", value)
    assert read_entries(changed)["a.one"].value == value
    assert read_entries(changed)["b.c.d"].value == 1.5


def test_keys_in_braces_are_refused_with_their_line() -> None:
    with pytest.raises(UserError, match=r"line 2: a\.one shares its line with other keys"):
        read_entries("# x\na: {one: 1, two: 2}\n")


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(UserError, match="not valid YAML"):
        read_entries("a: [")
    with pytest.raises(UserError, match="no mapping"):
        read_entries("- a\n")


WORDS = [
    "word",
    "a: b",
    "# c",
    "it's",
    '"q"',
    "x" * 90,
    "naïve",
    "- d",
    "<|x|>",
    "{",
    "1",
    "猫" * 30,
    "🙂",
    "\\",
    "\n",
    "\t",
]
LONG = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["a.one", "a.word", "a.list", "a.empty", "b.c.d"]), st.one_of(LONG, st.lists(LONG, max_size=3)))
def test_dvc_writes_a_long_value_as_we_do(key: str, value: object) -> None:
    """So that a later `dvc exp run -S` of another key changes no line of this one."""
    changed = set_value(set_value(TEXT, "a.word", "c", ""), key, value)
    assert read_entries(changed)[key].value == value
    assert dumps_yaml(parse_yaml_for_update(changed, "params.yaml")) == changed
    again = set_value(changed, key, "short")
    assert read_entries(again)[key].value == "short"
    assert len(again.splitlines()) <= len(TEXT.splitlines())


def test_a_text_that_would_lose_a_space_where_it_is_folded_is_not_folded() -> None:
    value = f"a  {'x' * 90} b"
    assert read_entries(set_value(TEXT, "b.c.d", value))["b.c.d"].value == value


def test_a_comment_is_not_looked_for_in_a_text_of_several_lines() -> None:
    changed = set_value(TEXT, "a.word", f"a: b # c {'d ' * 60}e")
    assert len(changed.splitlines()) > len(TEXT.splitlines())
    assert comment_of(changed, "a.word") == ""
    assert "#" not in set_value(changed, "a.word", "d").splitlines()[3]
