"""`gpt doctor`: what this machine has for training, and what to do about what is missing. What it looks at is in checks/."""

import argparse

from gpt.commands.arguments import Commands, add_command

_MARKS = {"ok": "✓", "note": "·", "missing": "✗"}


def add_commands(commands: Commands) -> None:
    """Add the command of this file to `gpt`."""
    add_command(commands, doctor)


def doctor(options: argparse.Namespace) -> int:
    """say what this machine has and what is missing"""
    return examine()


def examine() -> int:
    """Print the findings; return 0 if nothing is missing, else 2."""
    from gpt.commands.checks import machine, packages, project, servers, store

    findings = [
        *packages.packages(),
        *machine.machine(),
        *machine.accelerators(),
        *project.repository(),
        *store.spool(),
        *store.artifacts(),
        *servers.servers(),
        *project.settings(),
    ]
    width = max(len(subject) for _, subject, _ in findings)
    for kind, subject, text in findings:
        print(f"{_MARKS[kind]} {subject:<{width}}  {text}")
    missing = sum(kind == "missing" for kind, _, _ in findings)
    print(f"{missing} thing(s) to put right, marked ✗" if missing else "Everything that is needed is here.")
    return 2 if missing else 0
