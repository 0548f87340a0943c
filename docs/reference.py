"""The pages of the commands and of Python, written when the site is built: from `--help`, signatures and docstrings."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import gpt
from docs.settings import cell
from gpt.commands.line.command import Group
from gpt.commands.main import COMMANDS

_WIDTH = 100  # of help


def commands_page() -> str:
    """Return the page of all commands: a table by subject, then what `--help` of each says."""
    lines = ["# Commands", "", "Each works on the project that the current folder lies in.", ""]
    lines += ["| | command | what it does |", "| --- | --- | --- |"]
    for section, members in COMMANDS.sections.items():
        for row, member in enumerate(members):
            for place, (name, command) in enumerate(leaves(f"gpt {member.name}", member)):
                title = section if row == place == 0 else ""
                lines.append(f"| {title} | [`{name}`](#{name.replace(' ', '-')}) | {cell(command.help or '')} |")
    lines += ["", COMMANDS.epilog or "", ""]
    for name, command in leaves("gpt", COMMANDS):
        lines += [f"## {name}", "", "```text", help_of(name, command), "```", ""]
    return "\n".join(lines)


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command, or all those of a group, each with the name by which it is called."""
    if not isinstance(command, Group):
        yield name, command
        return
    for members in command.sections.values():
        for member in members:
            yield from leaves(f"{name} {member.name}", member)


def help_of(name: str, command: click.Command) -> str:
    """Return what `NAME --help` prints on a wide terminal."""
    context = click.Context(command, info_name=name, terminal_width=_WIDTH)
    return command.get_help(context)


def python_page() -> str:
    """Return the page of what `import gpt` offers."""
    lines = ["# Python", "", "```python", "import gpt", "```", ""]
    lines += _described("gpt.load", gpt.load)
    lines += ["", "## LanguageModel", "", inspect.getdoc(gpt.LanguageModel) or ""]
    attributes = read_attributes(Path(inspect.getfile(gpt.LanguageModel)), "LanguageModel")
    lines += ["", "| attribute | |", "| --- | --- |"]
    lines += [f"| `{name}` | {cell(text)} |" for name, text in attributes.items()]
    for name, member in vars(gpt.LanguageModel).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            lines += ["", *_described(f"model.{name}", member)]
    return "\n".join([*lines, ""])


def read_attributes(path: Path, name: str) -> dict[str, str]:
    """Return what a class says of its attributes: the string after each in `__init__`, the docstring of each property."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (cls,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = {}
    for function in (node for node in cls.body if isinstance(node, ast.FunctionDef)):
        if function.name == "__init__":
            for before, after in zip(function.body, function.body[1:], strict=False):
                if isinstance(before, ast.Assign) and isinstance(after, ast.Expr):
                    found[ast.unparse(before.targets[0]).removeprefix("self.")] = ast.literal_eval(after.value)
        elif any(ast.unparse(decorator) == "property" for decorator in function.decorator_list):
            found[function.name] = ast.get_docstring(function) or ast.unparse(function.returns or ast.Constant(""))
    return found


def _described(name: str, function: Callable[..., Any]) -> list[str]:
    """Return a function's heading, its signature and its docstring, examples as code."""
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    shown = signature.replace(parameters=parameters)
    text, lines = (
        inspect.getdoc(function) or "",
        [f"## {name}", "", "```python", *_wrapped(name, str(shown)), "```", ""],
    )
    for paragraph in text.split("\n\n"):
        lines += ["```pycon", paragraph, "```", ""] if paragraph.startswith(">>>") else [paragraph, ""]
    return lines


def _wrapped(name: str, signature: str) -> list[str]:
    """Return a signature without quotes around types and without our modules' names, an argument a line if it is long."""
    signature = re.sub(r"'(\w+)'", r"\1", signature)
    signature = re.sub(r"\b(?:collections\.abc|pathlib|gpt\.[\w.]+)\.(\w+)", r"\1", signature)
    inside, _, result = signature[1:].rpartition(") ->")
    whole = f"{name}({inside}) ->{result}"
    if len(whole) <= 100:
        return [whole]
    return [f"{name}(", *textwrap.indent(inside.replace(", ", ",\n"), "    ").splitlines(), f") ->{result}"]
