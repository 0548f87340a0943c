"""The page of params.yaml, written when the site is built: from the settings' types and docstrings in gpt/params/, the comments of
the committed file, and its values. So it cannot drift from what is checked.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt.files import parse_yaml
from gpt.params.project import Params

ROOT = Path(__file__).parents[1]
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false", "null": "`null`"}
_KIND = "Chooses the keys of this table."
_LONGEST_VALUE = 40
Schema = dict[str, Any]


class Documented(NamedTuple):
    """What a class of settings says of itself and of its keys."""

    text: str
    bases: tuple[str, ...]
    keys: dict[str, str]


def params_page() -> str:
    """Return the page of all keys of params.yaml: meaning, what is allowed, and the value of the committed file."""
    schema, documented = Params.model_json_schema(), read_docstrings(ROOT / "gpt/params")
    file = ROOT / "params.yaml"
    values = parse_yaml(file.read_text(encoding="utf-8"))
    comments = read_comments(file.read_text(encoding="utf-8"))
    lines = [
        "# params.yaml",
        "",
        "Every key, its meaning, what is allowed, and its value in the [committed file](../../params.yaml). All must be there:"
        " the code has no defaults. A key that is unknown, missing or out of range is refused before any work. What runs again"
        " after a change is in [recovery](../recovery.md#what-a-change-costs).",
    ]
    for section, property_ in schema["properties"].items():
        lines += ["", f"## {section}", ""]
        lines += _table(section, property_, values.get(section), schema["$defs"], documented, comments)
    return "\n".join([*lines, ""])


def _table(
    key: str,
    schema: Schema,
    value: Any,
    definitions: Schema,
    documented: dict[str, Documented],
    comments: dict[str, str],
) -> list[str]:
    """Return the table of a section's keys, those of its sections included, then one for each kind of object in its lists."""
    own = _definition(schema, definitions)
    if variants := own.get("oneOf"):  # a section of several kinds: the file has one of them
        told = []
        for variant in (_definition(each, definitions) for each in variants):
            is_here = value.get("kind") in _kind_names(variant)
            told += [f"### {key}: {', '.join(_kind_names(variant))}", ""]
            told += [*_table(key, variant, value if is_here else {}, definitions, documented, {}), ""]
        return told[:-1]
    rows, kinds = [], []
    for name, text, property_, current in _keys(key, own, value, definitions, documented):
        meaning = text or comments.get(name) or (_KIND if name.endswith(".kind") else "")
        rows.append(f"| `{name}` | {cell(meaning)} | {cell(allowed(property_, definitions))} | {_shown(current)} |")
        # Benchmarks come from sources as texts do.
        told = [each for _, each in kinds]
        kinds += [(name, each) for each in _kinds(property_, definitions) if each not in told]
    lines = [*_introduced(own, documented), "| key | meaning | allowed | here |", "| --- | --- | --- | --- |", *rows]
    for name, kind in kinds:
        texts = _texts(kind.get("title", ""), documented)
        lines += ["", f"### {name}: {', '.join(_kind_names(kind))}", "", *_introduced(kind, documented)]
        lines += ["| key | meaning | allowed |", "| --- | --- | --- |"]
        lines += [
            f"| `{name}` | {cell(_meaning(name, property_, texts))} | {cell(allowed(property_, definitions))} |"
            for name, property_ in kind["properties"].items()
        ]
    return lines


def _keys(
    prefix: str, schema: Schema, value: Any, definitions: Schema, documented: dict[str, Documented]
) -> Iterator[tuple[str, str, Schema, Any]]:
    """Yield each key below a section: its whole name, its docstring, its schema, its value in params.yaml."""
    texts = _texts(schema.get("title", ""), documented)
    for name, property_ in schema["properties"].items():
        key, current = f"{prefix}.{name}", value.get(name) if isinstance(value, dict) else None
        section = _definition(property_, definitions)
        if "properties" in section:
            yield from _keys(key, section, current, definitions, documented)
        else:
            yield key, texts.get(name, ""), property_, current


def _meaning(name: str, schema: Schema, texts: dict[str, str]) -> str:
    """Return what is said of a key of an object in a list: beside it, or by its type. Python writes `class` as `class_`."""
    said = texts.get(name) or texts.get(f"{name}_") or schema.get("description", "")
    return said or (_KIND if name == "kind" else "")


def _definition(schema: Schema, definitions: Schema) -> Schema:
    """Return the schema that a reference names."""
    if "$ref" in schema:
        return definitions[schema["$ref"].rpartition("/")[2]]
    if len(schema.get("allOf", ())) == 1:
        return _definition(schema["allOf"][0], definitions)
    return schema


def _kinds(schema: Schema, definitions: Schema) -> list[Schema]:
    """Return the schemas of the objects that a list may hold, by their kinds."""
    items = schema.get("items", {})
    found = [_definition(each, definitions) for each in items.get("oneOf", items.get("anyOf", [items]))]
    return [each for each in found if "properties" in each]


def _kind_names(schema: Schema) -> list[str]:
    """Return the values of `kind` for which a schema is, or what its objects are called."""
    kind = schema["properties"].get("kind", {})
    return kind.get("enum") or [kind.get("const", re.sub(r"(?<!^)(?=[A-Z])", " ", schema["title"]).lower())]


def allowed(schema: Schema, definitions: Schema) -> str:
    """Return in words which values a key takes."""
    schema = _definition(schema, definitions)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{_plain(value)}`" for value in schema["enum"])
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(allowed(each, definitions) for each in alternatives))
    match schema.get("type"):
        case "array":
            items = schema.get("items", {})
            return "list of " + ("objects" if _kinds(schema, definitions) else allowed(items, definitions) or "values")
        case "object":
            inner = schema.get("additionalProperties")
            return "object of " + (allowed(inner, definitions) if isinstance(inner, dict) and inner else "values")
        case kind:
            bounds = [f"{sign} {_number(schema[name])}" for name, sign in _BOUNDS.items() if name in schema]
            pattern = [f"of the form `{schema['pattern']}`"] if "pattern" in schema else []
            filled = ["not empty"] if schema.get("minLength") else []
            return " ".join([_TYPES.get(str(kind), "value"), ", ".join([*bounds, *pattern, *filled])]).strip()


def _number(bound: float) -> str:
    return "2⁶³" if bound == 2**63 else f"{bound:,}"


def _texts(name: str, documented: dict[str, Documented]) -> dict[str, str]:
    """Return the docstrings of a class's keys, inherited ones included."""
    found = documented.get(name)
    if found is None:
        return {}
    inherited = {key: text for base in found.bases for key, text in _texts(base, documented).items()}
    return inherited | found.keys


def _introduced(schema: Schema, documented: dict[str, Documented]) -> list[str]:
    found = documented.get(schema.get("title", ""))
    return [found.text, ""] if found and found.text else []


def read_docstrings(folder: Path) -> dict[str, Documented]:
    """Return by its name what each class of a folder's files says of itself, and of its attributes in the string after each."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                keys = {}
                for before, after in zip(node.body, node.body[1:], strict=False):
                    is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and is_text:
                        keys[before.target.id] = str(after.value.value)  # pyright: ignore[reportAttributeAccessIssue]
                bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
                found[node.name] = Documented(ast.get_docstring(node) or "", bases, keys)
    return found


def read_comments(text: str) -> dict[str, str]:
    """Return what params.yaml says beside or right above each key, by the key's whole name."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"\s*# (.*)", line):
            above.append(match[1])
            continue
        if match := re.match(r"(\s*)([\w-]+):(?:\s|$)(.*)", line):
            path = [entry for entry in path if entry[0] < len(match[1])] + [(len(match[1]), match[2])]
            unquoted = re.sub(r"""^\s*(?:'[^']*'|"[^"]*")""", "", match[3])
            beside = re.search(r"(?:^|\s)# (.*)$", unquoted)
            if said := [*([" ".join(above)] if above and path[-1][0] else []), *([beside[1]] if beside else [])]:
                found[".".join(name for _, name in path)] = "; ".join(said)
        above = []
    return found


def _plain(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return (
            "{}" if value == {} else "[]" if value == [] else f"{len(value)} entries" if len(value) > 1 else "1 entry"
        )
    text = _plain(value) if value != "" else "''"
    text = text.replace("\n", "⏎").replace("|", "\\|")
    return f"`{text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + '…'}`"


def cell(text: str) -> str:
    """Return a text for a cell of a table: one line, where no sign ends the cell or begins HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
