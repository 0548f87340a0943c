"""Records of JSON and of tables: what their fields hold, and the text that is made of one or several of them.

A text is put together piece by piece: braces in a field are text, whatever stands between them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from gpt.corpus.reading.streams import Fault
from gpt.params.corpus import Read, template_pieces

MISSING_TEXT = "missing_text"
"The reason of a `Fault` for which no text can be made."
_SHOWN_FIELDS = 10
_ABSENT = object()


class Record(NamedTuple):
    number: int
    "Of the line, row, record or document in its file, from 1."
    text: Any
    "What the text field holds, a string or not."
    values: dict[str, Any]
    "Of the other fields asked for; what the record does not have is not in it."


def kept_fields(settings: Read) -> tuple[str, ...]:
    """Return the fields to keep beside the text."""
    return (*settings.metadata_fields, *([settings.id_field] if settings.id_field else []))


def text_fields(settings: Read) -> tuple[str, ...]:
    """Return the fields that a document's text is made of."""
    if not settings.template:
        return (settings.text_field,)
    return tuple(dict.fromkeys(field for _, field in template_pieces(settings.template) if field))


def read_record(number: int, record: dict[str, Any], settings: Read) -> Record | Fault:
    """Return the text and the kept fields of an object or a row, or its `Fault`."""
    try:
        text = _text(record, settings)
    except Fault as fault:
        fault.number = number
        return fault
    found = ((field, find_field(record, field)) for field in kept_fields(settings))
    return Record(number, text, {field: value for field, value in found if value is not _ABSENT})


def check_columns(columns: Iterable[str], has: Callable[[str], bool], settings: Read) -> list[str]:
    """Return the columns to read of a table that `has` some; raise a `Fault` of all its rows if it lacks one of the text."""
    for field in text_fields(settings):
        if not has(field):
            raise Fault(MISSING_TEXT, f"has no column {field!r} but {', '.join(map(str, columns))}")
    wanted = dict.fromkeys((*text_fields(settings), *kept_fields(settings)))
    return [field for field in wanted if has(field)]


def find_field(record: dict[str, Any], path: str) -> Any:
    """Return the field of this name, or that the dots of it lead to, through null to null; `_ABSENT` if there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for key in path.split("."):
        if value is None:
            break
        if not isinstance(value, dict) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def _text(record: dict[str, Any], settings: Read) -> Any:
    if settings.template:
        return _filled(settings.template, record, settings, "a text field")
    value = find_field(record, settings.text_field)
    if value is _ABSENT:
        raise _missing(record, settings.text_field, "text field")
    return _joined(value, settings) if isinstance(value, list) else value


def _filled(template: str, record: dict[str, Any], settings: Read, what: str) -> str:
    """Return a template with the fields of a record in it; nothing at all if none of them holds something."""
    parts, is_empty = list[str](), True
    for text, field in template_pieces(template):
        parts.append(text)
        if field:
            value = find_field(record, field)
            if value is _ABSENT:
                raise _missing(record, field, what.removeprefix("a "))
            parts.append(_plain(value, field, settings))
            is_empty = is_empty and not parts[-1]
    return "" if is_empty else "".join(parts)


def _plain(value: Any, field: str, settings: Read) -> str:
    """Return what a template shows of a value: numbers as they are written, a list joined, nothing for null."""
    match value:
        case None:
            return ""
        case str():
            return value
        case list():
            return _joined(value, settings)
        case bool() | dict() | bytes():
            raise Fault("text_not_a_string", f"{field!r} is of type {type(value).__name__}")
        case _:
            return str(value)


def _joined(values: list[Any], settings: Read) -> str:
    """Return a list of strings, or of objects by the template `message`, as one text."""
    texts = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict) and settings.message:
            texts.append(_filled(settings.message, value, settings.model_copy(update={"message": ""}), "message field"))
        else:
            advice = "; prepare.read.message says what becomes of each" if isinstance(value, dict) else ""
            raise Fault("text_not_a_string", f"its text is a list with a {type(value).__name__}{advice}")
    return settings.join.join(texts)


def _missing(record: dict[str, Any], field: str, what: str) -> Fault:
    names = ", ".join(map(repr, list(record)[:_SHOWN_FIELDS])) or "none at all"
    return Fault(MISSING_TEXT, f"has no {what} {field!r} but {names}")
