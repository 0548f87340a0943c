"""params.yaml as lines: values and comments are set where they stand, and all else stays as it is, byte for byte.

A key is named by its way, as in train.max_steps. Lists and {} are values: their lines are written anew as a whole. What is written
has the form in which DVC writes the file (`dvc exp run -S`), so that a later change of one key is a change of its line alone.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from gpt.errors import UserError
from gpt.params.changes.editing import as_written, write_yaml

_STEP = 2  # spaces a level
_COMMENT = re.compile(r"(?:^|\s)(#.*)$")


class Entry(NamedTuple):
    """A key of a file: of a section the line of its name alone, of a value all its lines."""

    first: int
    "Number of its first line, from 0."
    end: int
    "Of the line after its last one; comments and empty lines behind it are not its own."
    value: Any
    "None of a section, whose keys have entries of their own."
    is_section: bool


@lru_cache(maxsize=64)  # a text is read again for each key that is set or asked for
def read_entries(text: str) -> Mapping[str, Entry]:
    """Return a file's keys in their order; raise `UserError` if it is no YAML mapping, or has sections in braces."""
    try:
        values = YAML(pure=True).load(text)
    except (YAMLError, ValueError) as error:
        raise UserError(f"not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, CommentedMap):
        raise UserError("is no mapping of keys")
    lines = text.splitlines()
    return dict(_entries(values, lines, ""))


def _entries(values: CommentedMap, lines: list[str], way: str) -> Iterator[tuple[str, Entry]]:
    for name, value in values.items():
        row, column = values.lc.key(name)
        if not re.match(rf"\s{{{column}}}['\"]?{re.escape(str(name))}", lines[row]) or lines[row][:column].strip():
            raise UserError(f"line {row + 1}: {way}{name} shares its line with other keys; give each a line of its own")
        if isinstance(value, CommentedMap) and value:
            yield f"{way}{name}", Entry(row, row + 1, None, is_section=True)
            yield from _entries(value, lines, f"{way}{name}.")
        else:
            yield f"{way}{name}", Entry(row, _end(lines, row, column), _plain(value), is_section=False)


def _end(lines: list[str], row: int, column: int) -> int:
    """Return the line after a value that begins in `row`: what is indented deeper, or items of a list, belongs to it."""
    end = row + 1
    for number in range(row + 1, len(lines)):
        stripped = lines[number].strip()
        indent = len(lines[number]) - len(lines[number].lstrip())
        if not stripped or (stripped.startswith("#") and indent <= column):
            continue
        if indent < column or (indent == column and not stripped.startswith("- ")):
            break
        end = number + 1
    return end


def comment_of(text: str, key: str) -> str:
    """Return what is said beside a key's value, without its #; "" if nothing is."""
    return _comment_of(text.splitlines(), read_entries(text)[key])[0].removeprefix("#").strip()


def set_value(text: str, key: str, value: Any, comment: str | None = None) -> str:
    """Return the file with another value of a key; `comment` is said beside it in place of what was, None leaves that.

    A value of several lines, or {}, has no comment beside it: DVC would move it. Raises `KeyError` for a key that is not there.
    """
    entry = read_entries(text)[key]
    if entry.is_section:
        raise KeyError(f"{key} is a section")
    lines = text.splitlines(keepends=True)
    old, column = _comment_of(lines, entry)
    written = dump(key, value)
    said = old if comment is None else f"# {comment}" if comment else ""
    if said and len(written) == 1 and not isinstance(value, list | dict):
        line = written[0].rstrip("\n")
        column = column or _column(lines, entry.first)
        written = [f"{line}{' ' * max(2, column - len(line))}{said}\n"]
    return "".join([*lines[: entry.first], *written, *lines[entry.end :]])


def _comment_of(lines: list[str], entry: Entry) -> tuple[str, int]:
    """Return the comment beside a value with its #, and where it begins; a text that goes over several lines has none."""
    if isinstance(entry.value, str) and entry.end > entry.first + 1:
        return "", 0
    return _comment(lines[entry.first].rstrip("\n"))


def _comment(line: str) -> tuple[str, int]:
    """Return a line's comment with its #, and where it begins; "" and 0 if it has none."""
    outside = re.sub(r"'[^']*'|\"(?:\\.|[^\"\\])*\"", lambda quoted: "_" * len(quoted[0]), line)
    found = _COMMENT.search(outside)
    return (line[found.start(1) :], found.start(1)) if found else ("", 0)


def _column(lines: list[str], row: int) -> int:
    """Return where comments begin around a line that has none."""
    near = sorted(range(len(lines)), key=lambda number: abs(number - row))
    return next((column for number in near[:40] if (column := _comment(lines[number])[1]) > _STEP), 0)


def dump(key: str, value: Any) -> list[str]:
    """Return the lines of a key with its value in the form that DVC writes, which folds what is long at the file's 80th column."""
    *sections, name = key.split(".")
    if value == {}:
        return [f"{' ' * (_STEP * len(sections))}{name}: {{}}\n"]
    nested = {name: as_written(value)}
    for section in reversed(sections):
        nested = {section: nested}
    return write_yaml(nested).splitlines(keepends=True)[len(sections) :]


def _plain(value: Any) -> Any:
    """Return Python's own values for ruamel's, which remember how they were written."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, bool) or value is None:
        return value
    return next((kind(value) for kind in (int, float, str) if isinstance(value, kind)), value)
