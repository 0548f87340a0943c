"""Before a commit runs exactly what `make lint` runs."""

import re
import subprocess

import yaml

from tests import ROOT


def test_pre_commit_runs_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert [hook["entry"] for hook in hooks] == commands
    for hook in hooks:
        assert hook["language"] == "system", "what is installed here, nothing fetched"
        assert hook["always_run"]
        assert not hook["pass_filenames"], "the whole project, as `make lint` does"


def test_make_help_has_a_line_for_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert {line.split()[1] for line in shown} == set(phony[1].split()) - {"moved"}
    assert all(len(line.split()) > 3 and len(line) < 100 for line in shown)
