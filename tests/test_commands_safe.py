"""No value becomes part of a shell's command line: neither in code nor in what DVC runs."""

import ast
import re

import pytest
from ruamel.yaml import YAML

from tests import ROOT
from tests.test_house import files_of

_SHELLS = (
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
)


def risks(text: str) -> list[str]:
    """What in a Python text gives a shell a command that is not written out there."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        is_fixed = bool(node.args) and isinstance(node.args[0], ast.Constant)
        if any(keyword.arg == "shell" and ast.unparse(keyword.value) != "False" for keyword in node.keywords):
            found.append(f"line {node.lineno}: {name}(shell=…)")
        elif name in _SHELLS and not is_fixed:
            found.append(f"line {node.lineno}: {name}")
        elif node.args and re.match(
            r"\[['\"](?:/bin/)?(?:ba|da|z)?sh['\"], ['\"]-l?c['\"], (?!['\"])", ast.unparse(node.args[0])
        ):
            found.append(f"line {node.lineno}: sh -c")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(f'rm {x}', shell=True)", "subprocess.Popen(x, shell=flag)", "os.system(x)", "os.popen('ls ' + x)",
        "subprocess.run(['sh', '-c', f'rm {x}'])", "run(['/bin/bash', '-lc', x])",
    ],
)  # fmt: skip
def test_each_kind_of_risk_is_seen(text: str) -> None:
    assert len(risks(text)) == 1


def test_no_value_reaches_a_shell() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): risks(path.read_text(encoding="utf-8"))
        for path in files_of("gpt", "flows", "infra")
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_commands_of_dvc_hold_no_settings() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    commands = [str(stage["cmd"]) for stage in stages.values()]
    assert len(commands) > 5
    # `\${` is the shell's own; `${` would be a value of params.yaml, put in by DVC.
    assert [command for command in commands if re.search(r"(?<!\\)\$\{", command)] == []
