"""docs/tutorial.md as a new user walks it: its commands, in its order, in a shell; from a folder of text to a promoted model."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpt
from tests import ROOT

PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
MOST_COMMANDS, MOST_EDITS = 6, 3
# What the page lets its reader change before training: fewer steps show whether all works.
EDITS = ((r"max_steps: \d+", "max_steps: 50"), ("licence: not stated", "licence: public domain"))


def commands_of(*titles: str) -> list[str]:
    """Return the commands of these sections of the page, line by line."""
    found = []
    for title in titles:
        section = PAGE.split(f"\n## {title}")[1].split("\n## ")[0]
        for block in re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            found += [line.partition("  #")[0].strip() for line in block.splitlines()]
    return found


def write_letters(folder: Path) -> None:
    """Write a folder of text, a letter a file: sentences of few words, so that a small model learns something soon."""
    draw = random.Random(0)
    names, verbs = (
        ["the queen", "my lord", "a fool", "the night", "our ship", "no man"],
        ["loves", "fears", "brings", "waits for"],
    )
    folder.mkdir()
    for number in range(60):
        lines = (
            f"{draw.choice(names)} {draw.choice(verbs)} {draw.choice(names)}".capitalize() + "." for _ in range(80)
        )
        (folder / f"letter_{number:02}.txt").write_text(
            f"Letter {number}\n\n" + "\n".join(lines) + "\n", encoding="utf-8"
        )


def test_it_takes_few_commands_and_few_edits() -> None:
    commands = commands_of("1.", "2.", "3.")
    assert [command.split()[:2] for command in commands] == [
        ["gpt", "init"],
        ["cd", "my-gpt"],
        ["python", "-m"],
        ["gpt", "promote"],
        ["gpt", "generate"],
    ]
    assert len(commands) <= MOST_COMMANDS
    edits = PAGE.split("change them or not:")[1].split("\n## ")[0]
    assert 0 < sum(line.startswith("| `") for line in edits.splitlines()) <= MOST_EDITS


@pytest.mark.slow
def test_a_folder_of_text_becomes_a_promoted_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_letters(tmp_path / "letters")
    (tmp_path / "gitconfig").write_text("[user]\n    name = Ada\n    email = ada@example.org\n", encoding="utf-8")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/gpt"  # an installed one may be of another checkout
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gpt "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    without = ("VIRTUAL_ENV", "DVC_ROOT", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    environment = {name: value for name, value in os.environ.items() if name not in without} | {
        "PATH": os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "GPT_CACHE": str(tmp_path / "cache"),
        "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
    }
    folder = tmp_path

    def run(command: str) -> str:
        nonlocal folder
        if command.startswith("cd "):
            folder = folder / command.removeprefix("cd ")
            return ""
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    for command in commands_of("1."):
        run(command)
    settings = (folder / "params.yaml").read_text(encoding="utf-8")
    for pattern, replacement in EDITS:
        settings, count = re.subn(pattern, replacement, settings)
        assert count == 1, pattern
    (folder / "params.yaml").write_text(settings, encoding="utf-8")
    said = "".join(run(command) for command in commands_of("2."))
    assert "models:/my-gpt/1 (alias challenger)" in said
    promoted, written = (run(command) for command in commands_of("3."))
    assert "my-gpt version 1 is the champion now" in promoted
    assert written.startswith("My lord,")
    monkeypatch.chdir(folder / "data")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert gpt.load("@champion").name == "models:/my-gpt/1"
    experiment, compared = (run(command) for command in commands_of("4."))
    assert "deeper" in experiment
    assert re.search(r"model\.n_layer\s.*4.*6", compared)
    assert (folder / "reports/compare/index.html").is_file()
