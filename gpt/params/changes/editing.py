"""Add and change sources of params.yaml and leave the rest as it is: comments stay, and the form is the one in which DVC writes it.

Text comes in and text goes out, so that whoever edits can look at the result before any file changes. `write_text` then refuses
what would not be valid settings. Values of other keys are set in lines.py.
"""

import io
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from gpt.errors import UserError
from gpt.files import atomic_file

Kind = Literal["sources", "benchmarks"]
"A list of `fetch`."
KINDS: tuple[Kind, ...] = ("sources", "benchmarks")
Values = dict[str, Any]


def add_source(text: str, source: Values, kind: Kind = "sources") -> str:
    """Return the text with one more source, the last of its list; raise `UserError` if its name is taken."""
    values = _load(text)
    names = {each.get("name") for key in KINDS for each in _listed(values, key)}
    if source["name"] in names:
        raise UserError(
            f"params.yaml: fetch.{kind}: there is a source named {source['name']} already;"
            f" give another name (--name), or change that one and run `gpt data hash {source['name']}`"
        )
    _listed(values, kind).append(as_written(source))
    return write_yaml(values)


def set_in_source(text: str, name: str, found: Values) -> str:
    """Return the text with other values of some keys of the source of a name; new ones come before its licence."""
    values = _load(text)
    for key in KINDS:
        for source in _listed(values, key):
            if source.get("name") == name:
                for field, value in found.items():
                    if field in source or "licence" not in source:
                        source[field] = as_written(value)
                    else:
                        source.insert(list(source).index("licence"), field, as_written(value))
                return write_yaml(values)
    raise KeyError(name)


def read_sources(text: str) -> dict[Kind, list[Values]]:
    """Return the sources as they are written, whatever is missing in them or wrong."""
    values = _load(text)
    return {kind: _plain(_listed(values, kind)) for kind in KINDS}


def write_text(path: Path, text: str) -> bool:
    """Write the file whole or not at all, if the text differs from what is there; return whether it did.

    Raises `UserError`, with the file as it was, for what `load_params` would refuse: no valid settings, or a secret.
    """
    from gpt.params.project import parse_params

    if path.read_text(encoding="utf-8") == text:
        return False
    parse_params(path, text)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return True


def _listed(values: Any, key: str) -> list[Any]:
    """Return a list of `fetch`, each of its items a mapping."""
    fetch = values.get("fetch")
    listed = fetch.get(key) if isinstance(fetch, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise UserError(f"params.yaml: fetch.{key} must be a list of sources; `gpt data add` writes one")
    if not listed and isinstance(listed, CommentedSeq):  # it was []
        listed.fa.set_block_style()
    return listed


def _load(text: str) -> Any:
    try:
        values = YAML().load(text)
    except YAMLError as error:
        raise UserError(f"params.yaml: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError("params.yaml: must hold the sections of a project; `gpt init DIR` writes a whole params.yaml")
    return values


def write_yaml(values: Any) -> str:
    """Return values as DVC writes them once it has read them, which may be otherwise than ruamel.yaml does at first."""
    text = _dump(_load(_dump(values)))
    # Where it folds a text at two spaces it loses one, and it takes some characters for ends of lines: then nothing is folded.
    if _plain(_load(text)) != _plain(values) or any(end in text for end in "\x85\u2028\u2029"):
        return _dump(values, width=1 << 16)
    return text


def _dump(values: Any, width: int | None = None) -> str:
    yaml, stream = YAML(), io.StringIO()
    yaml.default_flow_style = False
    if width:
        yaml.width = width
    yaml.dump(values, stream)
    return stream.getvalue()


def as_written(value: Any) -> Any:
    """Return plain values as ruamel.yaml writes them in lines of their own; empty ones as {} and []."""
    match value:
        case dict():
            return CommentedMap((key, as_written(each)) for key, each in value.items())
        case list() | tuple():
            return CommentedSeq(as_written(each) for each in value)
        case str() if not value.isprintable():  # of what ends lines, YAML 1.1 and 1.2 name different characters
            return DoubleQuotedScalarString(value)
        case _:
            return value


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case _:
            return value
